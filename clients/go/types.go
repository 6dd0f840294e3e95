package duly

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	dulyv1 "duly/v1"
)

// Enumerations of the protocol, under shorter names. The zero value leaves the choice to the model.
type (
	// Class is the criticality of a stream.
	Class = dulyv1.StreamClass
	// Backlog is what waits while the model is busy.
	Backlog = dulyv1.BacklogPolicy
	// Ordering is the order of outcomes.
	Ordering = dulyv1.Ordering
	// Gap is what a stateful model does after a frame that was not run.
	Gap = dulyv1.GapPolicy
	// Status is how a frame ended. Only OnTime and Late carry outputs.
	Status = dulyv1.OutcomeStatus
	// DataType is the element type of a tensor.
	DataType = dulyv1.DataType
	// AdviceKind is what advice is about.
	AdviceKind = dulyv1.StreamAdvice_Kind
)

// The values of the enumerations that programs name most.
const (
	Critical   = dulyv1.StreamClass_STREAM_CLASS_CRITICAL
	Standard   = dulyv1.StreamClass_STREAM_CLASS_STANDARD
	BestEffort = dulyv1.StreamClass_STREAM_CLASS_BEST_EFFORT

	Latest   = dulyv1.BacklogPolicy_BACKLOG_POLICY_LATEST
	KeepLast = dulyv1.BacklogPolicy_BACKLOG_POLICY_KEEP_LAST
	All      = dulyv1.BacklogPolicy_BACKLOG_POLICY_ALL

	Arrival   = dulyv1.Ordering_ORDERING_ARRIVAL
	Unordered = dulyv1.Ordering_ORDERING_UNORDERED
	Monotonic = dulyv1.Ordering_ORDERING_MONOTONIC

	OnTime     = dulyv1.OutcomeStatus_OUTCOME_STATUS_ON_TIME
	Late       = dulyv1.OutcomeStatus_OUTCOME_STATUS_LATE
	Expired    = dulyv1.OutcomeStatus_OUTCOME_STATUS_EXPIRED
	Superseded = dulyv1.OutcomeStatus_OUTCOME_STATUS_SUPERSEDED
	Shed       = dulyv1.OutcomeStatus_OUTCOME_STATUS_SHED
	Skipped    = dulyv1.OutcomeStatus_OUTCOME_STATUS_SKIPPED
	Invalid    = dulyv1.OutcomeStatus_OUTCOME_STATUS_INVALID
	Cancelled  = dulyv1.OutcomeStatus_OUTCOME_STATUS_CANCELLED
	Failed     = dulyv1.OutcomeStatus_OUTCOME_STATUS_FAILED

	SlowDown       = dulyv1.StreamAdvice_KIND_SLOW_DOWN
	SpeedUp        = dulyv1.StreamAdvice_KIND_SPEED_UP
	Draining       = dulyv1.StreamAdvice_KIND_DRAINING
	VersionChanged = dulyv1.StreamAdvice_KIND_VERSION_CHANGED
)

// Floor is how many of any Window consecutive frames shall be on time.
type Floor struct{ Frames, Window int32 }

// Terms is what the client wants of a stream. Only Model is needed.
type Terms struct {
	Model string
	// Version is a number; empty: the active one and its successors.
	Version string
	// Name is for the server's logs.
	Name    string
	Class   Class
	Backlog Backlog
	// BacklogFrames is how many frames wait with KeepLast.
	BacklogFrames int32
	Ordering      Ordering
	// Budget is how long after its capture the result of a frame is worth having; 0: the model's default.
	Budget time.Duration
	// Period is the time between frames; a stream that states it is let in only if it fits.
	Period time.Duration
	// Outputs are the names of those wanted; empty: all.
	Outputs []string
	Gap     Gap
	// VariantLowest is the least accurate variant that will do.
	VariantLowest string
	Floor         *Floor
	// FollowAdvice: frames that come faster than the server advises are Superseded here and not sent, unless they must run.
	FollowAdvice bool
	// OnAdvice is called with each advice of the server, one after the other. It must not block.
	OnAdvice func(Advice)
}

func (t Terms) request() *dulyv1.OpenStream {
	request := &dulyv1.OpenStream{
		Model: t.Model, Version: t.Version, StreamName: t.Name, StreamClass: t.Class,
		BacklogPolicy: t.Backlog, BacklogFrames: t.BacklogFrames, Ordering: t.Ordering,
		DefaultBudgetNano: int64(t.Budget), ExpectedPeriodNano: int64(t.Period),
		Outputs: t.Outputs, GapPolicy: t.Gap, VariantLowest: t.VariantLowest,
	}
	if t.Floor != nil {
		request.Floor = &dulyv1.OnTimeFloor{Frames: t.Floor.Frames, Window: t.Floor.Window}
	}
	return request
}

// Tensor is one named array. In a frame the name may be empty where the model has one input, DataType where it is the
// model's, and Shape where the model's is fixed.
type Tensor struct {
	Name     string
	DataType DataType
	// Shape has no batch dimension.
	Shape []int64
	// Data holds the elements, row-major and little-endian; of STRING each behind its length in four bytes.
	Data []byte
}

// Float32s makes a tensor of one or more dimensions; without a shape it has one.
func Float32s(name string, values []float32, shape ...int64) Tensor {
	data := make([]byte, 0, 4*len(values))
	for _, value := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(value))
	}
	if len(shape) == 0 {
		shape = []int64{int64(len(values))}
	}
	return Tensor{name, dulyv1.DataType_DATA_TYPE_FP32, shape, data}
}

// Bytes makes a tensor of unsigned bytes, such as a raw picture with the shape height, width, 3. It does not copy them.
func Bytes(name string, values []byte, shape ...int64) Tensor {
	if len(shape) == 0 {
		shape = []int64{int64(len(values))}
	}
	return Tensor{name, dulyv1.DataType_DATA_TYPE_UINT8, shape, values}
}

// Float32s returns the elements of an FP32 tensor.
func (t Tensor) Float32s() ([]float32, error) {
	if t.DataType != dulyv1.DataType_DATA_TYPE_FP32 || len(t.Data)%4 != 0 {
		return nil, fmt.Errorf("duly: tensor %q is %d bytes of %s, not FP32", t.Name, len(t.Data), spelled(t.DataType.String(), "DATA_TYPE_"))
	}
	values := make([]float32, len(t.Data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return values, nil
}

// Strings makes a tensor of text, which must be UTF-8; without a shape it has one dimension.
func Strings(name string, values []string, shape ...int64) Tensor {
	size := 0
	for _, value := range values {
		size += 4 + len(value)
	}
	data := make([]byte, 0, size)
	for _, value := range values {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(value)))
		data = append(data, value...)
	}
	if len(shape) == 0 {
		shape = []int64{int64(len(values))}
	}
	return Tensor{name, dulyv1.DataType_DATA_TYPE_STRING, shape, data}
}

// Strings returns the elements of a STRING tensor.
func (t Tensor) Strings() ([]string, error) {
	if t.DataType != dulyv1.DataType_DATA_TYPE_STRING {
		return nil, fmt.Errorf("duly: tensor %q is %s, not STRING", t.Name, spelled(t.DataType.String(), "DATA_TYPE_"))
	}
	values := []string{}
	for at := 0; at < len(t.Data); {
		left := t.Data[at:]
		if len(left) < 4 || uint64(len(left)-4) < uint64(binary.LittleEndian.Uint32(left)) {
			return nil, fmt.Errorf("duly: tensor %q: element %d ends behind its %d bytes", t.Name, len(values), len(t.Data))
		}
		end := 4 + int(binary.LittleEndian.Uint32(left))
		if !utf8.Valid(left[4:end]) {
			return nil, fmt.Errorf("duly: tensor %q: element %d is no UTF-8", t.Name, len(values))
		}
		values = append(values, string(left[4:end]))
		at += end
	}
	return values, nil
}

// BFloat16s makes a BF16 tensor, for which the values are rounded to the nearest, half to even; without a shape it has
// one dimension.
func BFloat16s(name string, values []float32, shape ...int64) Tensor {
	data := make([]byte, 0, 2*len(values))
	for _, value := range values {
		bits := math.Float32bits(value)
		if value != value { // to round a NaN could make an infinity of it
			bits |= 0x400000
		} else {
			bits += 0x7FFF + bits>>16&1
		}
		data = binary.LittleEndian.AppendUint16(data, uint16(bits>>16))
	}
	if len(shape) == 0 {
		shape = []int64{int64(len(values))}
	}
	return Tensor{name, dulyv1.DataType_DATA_TYPE_BF16, shape, data}
}

// BFloat16s returns the elements of a BF16 tensor.
func (t Tensor) BFloat16s() ([]float32, error) {
	if t.DataType != dulyv1.DataType_DATA_TYPE_BF16 || len(t.Data)%2 != 0 {
		return nil, fmt.Errorf("duly: tensor %q is %d bytes of %s, not BF16", t.Name, len(t.Data), spelled(t.DataType.String(), "DATA_TYPE_"))
	}
	values := make([]float32, len(t.Data)/2)
	for i := range values {
		values[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(t.Data[2*i:])) << 16)
	}
	return values, nil
}

// Encoded is one named payload that the server decodes.
type Encoded struct {
	Name   string
	Format dulyv1.EncodedFormat
	Data   []byte
}

// JPEG makes the payload of a picture for a model with one input.
func JPEG(data []byte) Encoded {
	return Encoded{Format: dulyv1.EncodedFormat_ENCODED_FORMAT_JPEG, Data: data}
}

// PNG makes the payload of a picture for a model with one input.
func PNG(data []byte) Encoded {
	return Encoded{Format: dulyv1.EncodedFormat_ENCODED_FORMAT_PNG, Data: data}
}

// Frame is one sample from a sensor. Its bytes are not copied: leave them alone until its outcome has come.
type Frame struct {
	Tensors []Tensor
	Encoded []Encoded
	// Captured is by the wall clock; zero: when it is sent.
	Captured time.Time
	// Budget counts from capture; 0: the stream's.
	Budget time.Duration
	// MustRun: newer frames never supersede it.
	MustRun bool
}

// frameFieldsBytes is at least what the fields of a frame take beside the bytes of its inputs.
const frameFieldsBytes = 64

func (f Frame) size() int {
	size := frameFieldsBytes
	for _, t := range f.Tensors {
		size += len(t.Data) + len(t.Name) + 10*len(t.Shape) + 24
	}
	for _, e := range f.Encoded {
		size += len(e.Data) + len(e.Name) + 24
	}
	return size
}

func (f Frame) message(id uint64, capturedNS int64) *dulyv1.Frame {
	message := &dulyv1.Frame{FrameId: id, CaptureTimeUnixNano: capturedNS, BudgetNano: int64(f.Budget), MustRun: f.MustRun}
	for _, t := range f.Tensors {
		message.Tensors = append(message.Tensors, &dulyv1.Tensor{Name: t.Name, Datatype: t.DataType, Shape: t.Shape, Data: t.Data})
	}
	for _, e := range f.Encoded {
		message.Encoded = append(message.Encoded, &dulyv1.Encoded{Name: e.Name, Format: e.Format, Data: e.Data})
	}
	return message
}

// Timing holds times of one frame on the server since its receipt; 0: it did not get there.
type Timing struct {
	// Received is by the server's wall clock.
	Received                            time.Time
	Dispatched, Started, Finished, Sent time.Duration
	CaptureToReceipt, ClockUncertainty  time.Duration
}

// Outcome is the one answer to a frame.
type Outcome struct {
	ID     uint64
	Status Status
	// Latency is from capture to the arrival of the outcome, on the client's clock.
	Latency time.Duration
	// Outputs by name; only with OnTime and Late.
	Outputs map[string]Tensor
	// Version and Variant are those that ran on the frame; empty: none did.
	Version, Variant string
	// BatchSize is the number of frames in the batch that the frame ran in.
	BatchSize int
	// Slack is the deadline minus the time at which the server sent the outcome; negative: too late.
	Slack time.Duration
	// Reason says why there is no result in time, for people.
	Reason string
	Timing Timing
	// Guards are the names of the model's guards that found something on the frame, with a result and with Invalid.
	Guards []string
}

// OK says whether there is a result: OnTime or Late.
func (o Outcome) OK() bool { return o.Status == OnTime || o.Status == Late }

func outcomeOf(m *dulyv1.Outcome, latency time.Duration) Outcome {
	outcome := Outcome{
		ID: m.GetFrameId(), Status: m.GetStatus(), Latency: latency, Version: m.GetVersion(), Variant: m.GetVariant(),
		BatchSize: int(m.GetBatchSize()), Slack: time.Duration(m.GetSlackNano()), Reason: m.GetReason(),
		Guards: m.GetGuards(),
	}
	if len(m.GetOutputs()) > 0 {
		outcome.Outputs = make(map[string]Tensor, len(m.GetOutputs()))
		for _, t := range m.GetOutputs() {
			outcome.Outputs[t.GetName()] = Tensor{t.GetName(), t.GetDatatype(), t.GetShape(), t.GetData()}
		}
	}
	if t := m.GetTiming(); t != nil {
		outcome.Timing = Timing{
			Received: time.Unix(0, t.GetReceivedUnixNano()), Dispatched: time.Duration(t.GetDispatchedNano()),
			Started: time.Duration(t.GetStartedNano()), Finished: time.Duration(t.GetFinishedNano()),
			Sent: time.Duration(t.GetSentNano()), CaptureToReceipt: time.Duration(t.GetCaptureToReceiptNano()),
			ClockUncertainty: time.Duration(t.GetClockUncertaintyNano()),
		}
	}
	return outcome
}

// Advice is something that the client should act on.
type Advice struct {
	Kind AdviceKind
	// Period, with SlowDown and SpeedUp: the shortest, on average, that can be served; 0: any.
	Period  time.Duration
	Version string
	Reason  string
}

// Name returns the advice's kind as text, such as "SLOW_DOWN".
func (a Advice) Name() string { return spelled(a.Kind.String(), "KIND_") }

// StatusName returns a status as text, such as "ON_TIME".
func StatusName(status Status) string { return spelled(status.String(), "OUTCOME_STATUS_") }

func spelled(name, prefix string) string { return strings.TrimPrefix(name, prefix) }
