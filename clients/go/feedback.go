package duly

import (
	"context"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	dulyv1 "duly/v1"
)

// FeedbackStatus is what became of the labels of one frame.
type FeedbackStatus = dulyv1.FeedbackStatus

// The values of FeedbackStatus. Labels that are Pending or were NotKept are worth sending again.
const (
	Joined       = dulyv1.FeedbackStatus_FEEDBACK_STATUS_JOINED
	UnknownFrame = dulyv1.FeedbackStatus_FEEDBACK_STATUS_UNKNOWN_FRAME
	InvalidLabel = dulyv1.FeedbackStatus_FEEDBACK_STATUS_INVALID
	NotKept      = dulyv1.FeedbackStatus_FEEDBACK_STATUS_NOT_KEPT
	Pending      = dulyv1.FeedbackStatus_FEEDBACK_STATUS_PENDING
)

const (
	// classLabel is what a class is called, unless the model says otherwise.
	classLabel = "label"
	// feedbackItemsMax, feedbackBytesMax and feedbackLabelsMax bound one message; more goes in several.
	feedbackItemsMax, feedbackBytesMax, feedbackLabelsMax = 1024, 2 << 20, 4096
	// keysMax: of a stream that was opened again so often, earlier frames can be labelled no more by its keys.
	keysMax = 64
)

// Feedback says what was right for one frame.
type Feedback struct {
	// StreamKey is Stream.KeyOf of the frame. It holds for good, whatever becomes of the stream.
	StreamKey string
	FrameID   uint64
	// Labels are the right class (ClassNumber, ClassName), or what outputs should have been, by their names.
	Labels []Tensor
	// Weight is how much it counts; 0: 1, as much as any.
	Weight float64
	// Source is where it is from, for who judges labels by that.
	Source string
}

// FeedbackResult is what became of the labels of one frame.
type FeedbackResult struct {
	Status FeedbackStatus
	// Reason says why they were not joined, for people.
	Reason string
}

// ClassNumber makes the label of a class by its number.
func ClassNumber(number int64) Tensor {
	data := binary.LittleEndian.AppendUint64(nil, uint64(number))
	return Tensor{Name: classLabel, DataType: dulyv1.DataType_DATA_TYPE_INT64, Data: data}
}

// ClassName makes the label of a class by its name, which the model lists.
func ClassName(name string) Tensor {
	tensor := Strings(classLabel, []string{name})
	tensor.Shape = nil
	return tensor
}

// Feedback says what was right for frames that were answered, whenever that is known. It returns what became of each,
// in their order. Many go in several messages; where one of these fails, the results of those before it come with the
// error. Sending a label again is safe: the newest one of a frame counts.
func (c *Client) Feedback(ctx context.Context, items []Feedback) ([]FeedbackResult, error) {
	results := make([]FeedbackResult, 0, len(items))
	for _, request := range feedbackRequests(items) {
		response, err := c.calls.Feedback(ctx, request)
		if err != nil {
			return results, errorOf(err, c.target)
		}
		for _, result := range response.GetResults() {
			results = append(results, FeedbackResult{result.GetStatus(), result.GetReason()})
		}
	}
	return results, nil
}

// FeedbackStatusName returns a status as text, such as "JOINED".
func FeedbackStatusName(status FeedbackStatus) string {
	return spelled(status.String(), "FEEDBACK_STATUS_")
}

// feedbackRequests makes the messages with these labels, in their order.
func feedbackRequests(items []Feedback) []*dulyv1.FeedbackRequest {
	var requests []*dulyv1.FeedbackRequest
	bytes, labels := 0, 0
	for _, item := range items {
		message := &dulyv1.FrameFeedback{
			StreamKey: item.StreamKey, FrameId: item.FrameID, Weight: item.Weight, Source: item.Source,
		}
		for _, t := range item.Labels {
			message.Labels = append(message.Labels, &dulyv1.Tensor{Name: t.Name, Datatype: t.DataType, Shape: t.Shape, Data: t.Data})
		}
		size, last := proto.Size(message), len(requests)-1
		if last < 0 || len(requests[last].Items) >= feedbackItemsMax || bytes+size > feedbackBytesMax || labels+len(item.Labels) > feedbackLabelsMax {
			requests = append(requests, &dulyv1.FeedbackRequest{})
			last, bytes, labels = last+1, 0, 0
		}
		requests[last].Items = append(requests[last].Items, message)
		bytes, labels = bytes+size, labels+len(item.Labels)
	}
	return requests
}

// streamKey is a key that a stream had, with the first id of the frames that it is for.
type streamKey struct {
	firstID uint64
	key     string
}
