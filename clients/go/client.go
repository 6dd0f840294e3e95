package duly

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	dulyv1 "duly/v1"
)

// Option changes how a client works.
type Option func(*settings)

type settings struct {
	tls          *tls.Config
	token        func() (string, error)
	tokenInClear bool
	reconnect    bool
	openTimeout  time.Duration
	dial         []grpc.DialOption
}

// WithTLS makes the client speak TLS.
func WithTLS(config *tls.Config) Option { return func(s *settings) { s.tls = config } }

// WithToken makes each call show a bearer token.
func WithToken(token string) Option {
	return func(s *settings) { s.token = func() (string, error) { return token, nil } }
}

// WithTokenFile makes each call show the bearer token that the file holds then.
func WithTokenFile(path string) Option {
	return func(s *settings) {
		s.token = func() (string, error) {
			text, err := os.ReadFile(path)
			return strings.TrimSpace(string(text)), err
		}
	}
}

// WithTokenInClearText lets a token cross a network without TLS.
func WithTokenInClearText() Option { return func(s *settings) { s.tokenInClear = true } }

// WithoutReconnect: nothing is tried again, at first either.
func WithoutReconnect() Option { return func(s *settings) { s.reconnect = false } }

// WithOpenTimeout sets how long a stream may take to open, 10 s where it is not set. What may pass meanwhile is tried
// again until then.
func WithOpenTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.openTimeout = timeout }
}

// WithDialOptions adds options of gRPC's own.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// Client is a client of one server. It connects at its first call, and any number of streams go over it.
type Client struct {
	target   string
	settings settings
	conn     *grpc.ClientConn
	calls    dulyv1.InferenceServiceClient
}

// NewClient makes a client of the server at target: "HOST:PORT" or "unix:PATH".
func NewClient(target string, options ...Option) (*Client, error) {
	s := settings{reconnect: true, openTimeout: 10 * time.Second}
	for _, option := range options {
		option(&s)
	}
	security := insecure.NewCredentials()
	if s.tls != nil {
		security = credentials.NewTLS(s.tls)
	}
	if s.token != nil && s.tls == nil && !s.tokenInClear && !isLocal(target) {
		return nil, fmt.Errorf("duly: the token would go to %s in clear text: use WithTLS", target)
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(security),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)), // the server bounds what it sends
		grpc.WithDisableRetry(),                                             // a frame is never sent twice
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: backoffMin, Multiplier: 2, Jitter: 0.2, MaxDelay: backoffMax},
			MinConnectTimeout: time.Second,
		}),
	}
	if s.token != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer{s.token}))
	}
	conn, err := grpc.NewClient(target, append(dial, s.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("duly: %s: %w", target, err)
	}
	return &Client{target, s, conn, dulyv1.NewInferenceServiceClient(conn)}, nil
}

// Conn returns the connection, for calls of other services of duly.v1.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Close ends the connection and every stream over it.
func (c *Client) Close() error { return c.conn.Close() }

// Open opens a stream of frames. ctx bounds the opening, and ends the stream when it is done. A refusal is an *Error.
func (c *Client) Open(ctx context.Context, terms Terms) (*Stream, error) {
	stream := newStream(ctx, c, terms)
	if err := stream.open(); err != nil {
		stream.cancel()
		return nil, err
	}
	return stream, nil
}

// bearer shows a token with each call.
type bearer struct{ token func() (string, error) }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b.token()
	if err != nil {
		return nil, errors.New("the token's file cannot be read")
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return false } // NewClient has looked at where it goes

// isLocal says whether what is sent to target stays on this machine.
func isLocal(target string) bool {
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") {
		return true
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
