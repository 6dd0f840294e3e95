// Command picture streams a JPEG thirty times a second for a second and says what became of each frame:
//
//	go run ./examples/picture 127.0.0.1:8500 yolo street.jpg
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"duly"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: picture HOST:PORT MODEL FILE.jpg")
	}
	picture, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	client, err := duly.NewClient(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx := context.Background()
	stream, err := client.Open(ctx, duly.Terms{Model: os.Args[2], Budget: 250 * time.Millisecond, Name: "camera"})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer stream.Finish()
		for range 30 {
			if _, err := stream.Send(ctx, duly.Frame{Encoded: []duly.Encoded{duly.JPEG(picture)}}); err != nil {
				log.Print(err)
				return
			}
			time.Sleep(time.Second / 30)
		}
	}()
	for outcome, err := range stream.Outcomes(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("frame %d: %s after %v %s\n", outcome.ID, duly.StatusName(outcome.Status), outcome.Latency, outcome.Reason)
		for name, output := range outcome.Outputs {
			fmt.Printf("  %s %v\n", name, output.Shape)
		}
	}
}
