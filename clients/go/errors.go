package duly

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrFull is returned by TrySend where a frame would have to wait.
	ErrFull = errors.New("duly: no room for another frame now")
	// ErrFinished is returned where a stream was finished or closed and takes no more frames.
	ErrFinished = errors.New("duly: the stream takes no more frames: it is finished or closed")
	// ErrTooSlow is returned by Send where nobody reads the outcomes.
	ErrTooSlow = errors.New("duly: outcomes are not read: call Next, in another goroutine where need be, while you send")
)

// Error is what ended a stream or refused it. What goes wrong with one frame is no error but its outcome.
type Error struct {
	// Reason is the server's stable name, such as MODEL_NOT_FOUND; empty where it gave none.
	Reason string
	// Message is for people.
	Message string
	// Code is that of gRPC.
	Code codes.Code
	// Metadata says more; where admission refused a stream what would fit, such as period_nano.
	Metadata map[string]string
	// Fields names what was wrong with the terms, where that is one field.
	Fields []string
}

func (e *Error) Error() string { return e.Message }

// Recoverable says whether the same stream may open a little later, or the same call succeed.
func (e *Error) Recoverable() bool {
	switch e.Reason {
	case "MODEL_NOT_READY", "ADMISSION_REFUSED", "ADMISSION_BUSY", "STREAMS_EXHAUSTED", "CALLS_EXHAUSTED", "DRAINING", "DUMP_FAILED",
		"FEEDBACK_UNAVAILABLE":
		return true
	case "":
		switch e.Code {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.FailedPrecondition, codes.ResourceExhausted:
			return true
		}
	}
	return false
}

// passes says whether it is worth while to try again while a stream opens for the first time: a refusal by admission
// says what would fit, which is for the application to decide on.
func (e *Error) passes() bool { return e.Recoverable() && e.Reason != "ADMISSION_REFUSED" }

// errorOf makes an Error of the status that ended a call to target.
func errorOf(err error, target string) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	said := status.Convert(err)
	result := &Error{Message: said.Message(), Code: said.Code()}
	for _, detail := range said.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			result.Reason, result.Metadata = d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, violation := range d.GetFieldViolations() {
				result.Fields = append(result.Fields, violation.GetField())
			}
		}
	}
	if result.Reason == "" {
		switch result.Code {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
			result.Message = fmt.Sprintf("no answer from %s: %s", target, said.Message())
		case codes.Unimplemented:
			result.Message = fmt.Sprintf("%s is no duly server, or an older one: %s", target, said.Message())
		}
	}
	return result
}

func protocolError(format string, values ...any) *Error {
	return &Error{Code: codes.Internal, Message: fmt.Sprintf(format, values...)}
}
