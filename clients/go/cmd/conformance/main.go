// Command conformance is the program of this client for the conformance suite; see clients/conformance/README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"duly"
	dulyv1 "duly/v1"
)

type command struct {
	Do            string
	Target        string
	Model         string
	Version       string
	Name          string
	Class         string
	Backlog       string
	BacklogFrames int32 `json:"backlog_frames"`
	Ordering      string
	BudgetMS      float64 `json:"budget_ms"`
	PeriodMS      float64 `json:"period_ms"`
	Outputs       []string
	Gap           string
	VariantLowest string `json:"variant_lowest"`
	Floor         []int32
	FollowAdvice  bool `json:"follow_advice"`
	Token         string
	Reconnect     *bool
	OpenTimeoutMS float64 `json:"open_timeout_ms"`

	Values        []float32
	Texts         []string
	DType         string
	Shape         []int64
	Format        string
	Data          []byte
	Input         string
	MustRun       bool    `json:"must_run"`
	CapturedAgoMS float64 `json:"captured_ago_ms"`
	Count         int

	Items     []item
	IDs       []uint64
	Exchanges [][4]int64
	NowNS     int64   `json:"now_ns"`
	PeriodNS  int64   `json:"period_ns"`
	Phase     float64 `json:"phase"`
	AtNS      []int64 `json:"at_ns"`
}

// item is the label of one frame.
type item struct {
	ID     uint64
	Key    *string
	Number *int64
	Name   *string
	Output string
	Values []float32
	Weight float64
	Source string
}

type event map[string]any

var saying sync.Mutex

func say(kind string, what event) {
	what["event"] = kind
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	saying.Lock()
	defer saying.Unlock()
	fmt.Println(string(line))
}

func ms(d time.Duration) float64      { return float64(d) / 1e6 }
func of(ms float64) time.Duration     { return time.Duration(ms * 1e6) }
func bare(name, prefix string) string { return strings.TrimPrefix(name, prefix) }

type program struct {
	ctx    context.Context
	client *duly.Client
	stream *duly.Stream
	read   sync.WaitGroup
}

func (p *program) open(c command) error {
	options := []duly.Option{}
	if c.Token != "" {
		options = append(options, duly.WithToken(c.Token))
	}
	if c.Reconnect != nil && !*c.Reconnect {
		options = append(options, duly.WithoutReconnect())
	}
	if c.OpenTimeoutMS > 0 {
		options = append(options, duly.WithOpenTimeout(of(c.OpenTimeoutMS)))
	}
	client, err := duly.NewClient(c.Target, options...)
	if err != nil {
		return err
	}
	p.client = client
	terms := duly.Terms{
		Model: c.Model, Version: c.Version, Name: c.Name, BacklogFrames: c.BacklogFrames,
		Class:    duly.Class(dulyv1.StreamClass_value["STREAM_CLASS_"+c.Class]),
		Backlog:  duly.Backlog(dulyv1.BacklogPolicy_value["BACKLOG_POLICY_"+c.Backlog]),
		Ordering: duly.Ordering(dulyv1.Ordering_value["ORDERING_"+c.Ordering]),
		Gap:      duly.Gap(dulyv1.GapPolicy_value["GAP_POLICY_"+c.Gap]),
		Budget:   of(c.BudgetMS), Period: of(c.PeriodMS), Outputs: c.Outputs, VariantLowest: c.VariantLowest,
		FollowAdvice: c.FollowAdvice,
		OnAdvice: func(a duly.Advice) {
			say("advice", event{"kind": a.Name(), "period_ms": ms(a.Period), "version": a.Version, "reason": a.Reason})
		},
	}
	if len(c.Floor) == 2 {
		terms.Floor = &duly.Floor{Frames: c.Floor[0], Window: c.Floor[1]}
	}
	stream, err := client.Open(p.ctx, terms)
	var refused *duly.Error
	if errors.As(err, &refused) {
		say("refused", event{"reason": refused.Reason, "message": refused.Message, "metadata": refused.Metadata})
		return nil
	} else if err != nil {
		return err
	}
	opened := stream.Opened()
	say("opened", event{
		"version": opened.GetVersion(), "class": bare(opened.GetStreamClass().String(), "STREAM_CLASS_"),
		"backlog":        bare(opened.GetBacklogPolicy().String(), "BACKLOG_POLICY_"),
		"backlog_frames": opened.GetBacklogFrames(), "ordering": bare(opened.GetOrdering().String(), "ORDERING_"),
		"budget_ms": ms(time.Duration(opened.GetDefaultBudgetNano())), "frames_in_flight_max": opened.GetFramesInFlightMax(),
		"inputs": specs(opened.GetInputs()), "outputs": specs(opened.GetOutputs()),
	})
	p.stream = stream
	p.read.Add(1)
	go p.readOutcomes(stream)
	return nil
}

func specs(of []*dulyv1.TensorSpec) []event {
	result := []event{}
	for _, s := range of {
		result = append(result, event{"name": s.GetName(), "dtype": bare(s.GetDatatype().String(), "DATA_TYPE_"), "shape": s.GetShape()})
	}
	return result
}

func (p *program) readOutcomes(stream *duly.Stream) {
	defer p.read.Done()
	for {
		o, err := stream.Next(p.ctx)
		var ended *duly.Error
		switch {
		case errors.Is(err, io.EOF):
			say("ended", event{"reason": "", "message": ""})
			return
		case errors.As(err, &ended):
			say("ended", event{"reason": ended.Reason, "message": ended.Message})
			return
		case err != nil:
			say("error", event{"message": err.Error()})
			return
		}
		outputs := map[string]any{}
		for name, tensor := range o.Outputs {
			outputs[name] = elements(tensor)
		}
		say("outcome", event{
			"id": o.ID, "status": duly.StatusName(o.Status), "outputs": outputs, "version": o.Version, "reason": o.Reason,
			"latency_ms": ms(o.Latency), "capture_to_receipt_ms": ms(o.Timing.CaptureToReceipt),
			"clock_uncertainty_ms": ms(o.Timing.ClockUncertainty), "guards": append([]string{}, o.Guards...),
		})
	}
}

func elements(tensor duly.Tensor) any {
	if texts, err := tensor.Strings(); err == nil {
		return texts
	}
	if values, err := tensor.BFloat16s(); err == nil {
		return values
	}
	return numbers(tensor)
}

func numbers(tensor duly.Tensor) []float64 {
	result := []float64{}
	if values, err := tensor.Float32s(); err == nil {
		for _, value := range values {
			result = append(result, float64(value))
		}
	} else {
		for _, value := range tensor.Data {
			result = append(result, float64(value))
		}
	}
	return result
}

func frameOf(c command) duly.Frame {
	frame := duly.Frame{
		Captured: time.Now().Add(-of(c.CapturedAgoMS)), Budget: of(c.BudgetMS), MustRun: c.MustRun,
	}
	if c.Format != "" {
		format := dulyv1.EncodedFormat(dulyv1.EncodedFormat_value["ENCODED_FORMAT_"+c.Format])
		frame.Encoded = []duly.Encoded{{Name: c.Input, Format: format, Data: c.Data}}
	} else if c.Texts != nil {
		frame.Tensors = []duly.Tensor{duly.Strings(c.Input, c.Texts, c.Shape...)}
	} else if c.DType == "BF16" {
		frame.Tensors = []duly.Tensor{duly.BFloat16s(c.Input, c.Values, c.Shape...)}
	} else {
		frame.Tensors = []duly.Tensor{duly.Float32s(c.Input, c.Values, c.Shape...)}
	}
	return frame
}

func (p *program) do(c command) error {
	count := max(1, c.Count)
	switch c.Do {
	case "open":
		return p.open(c)
	case "send":
		ids := []uint64{}
		for range count {
			id, err := p.stream.Send(p.ctx, frameOf(c))
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		say("sent", event{"ids": ids})
	case "try_send":
		ids, full := []uint64{}, 0
		for range count {
			id, err := p.stream.TrySend(frameOf(c))
			if errors.Is(err, duly.ErrFull) {
				full++
			} else if err != nil {
				return err
			} else {
				ids = append(ids, id)
			}
		}
		say("tried", event{"ids": ids, "full": full})
	case "cancel":
		p.stream.CancelFrames(c.IDs...)
	case "feedback":
		return p.feedback(c.Items)
	case "clock":
		sayClock(p.stream.Clock())
	case "finish":
		p.stream.Finish()
	case "close":
		p.stream.Close()
	case "clock_of":
		clock := duly.Clock{}
		for _, e := range c.Exchanges {
			clock.Add(e[0], e[1], e[2], e[3])
		}
		sayClock(clock.Estimate(c.NowNS))
	case "pace_of":
		pace := duly.Pace{}
		pace.Advised(0, c.PeriodNS, c.Phase)
		due := []bool{}
		for _, at := range c.AtNS {
			is := pace.Due(at)
			if is {
				pace.Sent(at)
			}
			due = append(due, is)
		}
		say("pace", event{"due": due})
	default:
		return fmt.Errorf("unknown command %q", c.Do)
	}
	return nil
}

func (p *program) feedback(items []item) error {
	labels := []duly.Feedback{}
	for _, each := range items {
		label := duly.Feedback{StreamKey: p.stream.KeyOf(each.ID), FrameID: each.ID, Weight: each.Weight, Source: each.Source}
		if each.Key != nil {
			label.StreamKey = *each.Key
		}
		switch {
		case each.Number != nil:
			label.Labels = []duly.Tensor{duly.ClassNumber(*each.Number)}
		case each.Name != nil:
			label.Labels = []duly.Tensor{duly.ClassName(*each.Name)}
		default:
			label.Labels = []duly.Tensor{duly.Float32s(each.Output, each.Values)}
		}
		labels = append(labels, label)
	}
	results, err := p.client.Feedback(p.ctx, labels)
	var failed *duly.Error
	if errors.As(err, &failed) {
		say("labelled", event{"reason": failed.Reason, "statuses": []string{}, "reasons": []string{}})
		return nil
	} else if err != nil {
		return err
	}
	statuses, reasons := []string{}, []string{}
	for _, result := range results {
		statuses = append(statuses, duly.FeedbackStatusName(result.Status))
		reasons = append(reasons, result.Reason)
	}
	say("labelled", event{"reason": "", "statuses": statuses, "reasons": reasons})
	return nil
}

func sayClock(estimate duly.ClockEstimate, known bool) {
	if known {
		say("clock", event{"offset_ns": int64(estimate.Offset), "uncertainty_ns": int64(estimate.Uncertainty)})
	} else {
		say("clock", event{"offset_ns": nil, "uncertainty_ns": nil})
	}
}

func main() {
	p := &program{ctx: context.Background()}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		err := json.Unmarshal(lines.Bytes(), &c)
		if err == nil {
			err = p.do(c)
		}
		if err != nil {
			say("error", event{"message": err.Error()})
		}
	}
	if p.stream != nil {
		p.stream.Close()
	}
	p.read.Wait()
	if p.client != nil {
		_ = p.client.Close()
	}
}
