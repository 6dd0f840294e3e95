// Package duly is a client of duly, a streaming inference server for real-time systems: frames go in, each with a
// deadline, and exactly one outcome for each frame comes out.
//
//	client, err := duly.NewClient("127.0.0.1:8500")
//	stream, err := client.Open(ctx, duly.Terms{Model: "yolo", Budget: 100 * time.Millisecond})
//	id, err := stream.Send(ctx, duly.Frame{Encoded: []duly.Encoded{duly.JPEG(picture)}})
//	outcome, err := stream.Next(ctx)
//
// A stream opens again by itself when its connection is lost. No frame is sent twice: those that were in flight then are
// Cancelled. What may be unanswered and unread is bounded, and so is every wait that has a context.
package duly

//go:generate make -C ../.. protos-go
