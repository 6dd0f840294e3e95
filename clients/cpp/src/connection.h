// The call of one stream: what waits to be written, what is read, and the exchanges of time stamps. The stream's lock is
// held by whoever calls; gRPC's threads take it themselves.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "duly/duly.h"
#include "duly/v1/inference.grpc.pb.h"
#include "wall_clock.h"

namespace duly {

constexpr std::chrono::seconds ping_period{10};

class Connection : public grpc::ClientBidiReactor<v1::StreamRequest, v1::StreamResponse> {
public:
    // Begins the call and opens the stream over it. It lives until the call is over.
    static std::shared_ptr<Connection> begin(std::shared_ptr<Stream::Shared> shared);

    bool has_room(std::size_t size) const;
    // Sends a frame, at once where nothing else is being written.
    void put(v1::Frame frame, std::size_t size);
    void cancel_frame(std::uint64_t id);
    void ping();
    // Where the client's clock was set, the server learns of it before it gets the next frame.
    void heed();
    // Half-closes this side behind all that waits.
    void finish();
    // Goes on reading where outcomes were read meanwhile.
    void resume();
    void end() { context_.TryCancel(); }

    bool is_open = false;    // the server agreed to the stream
    bool is_over = false;    // the call has ended, and `error` says why
    bool is_related = false;  // the server can count budgets from capture
    Error error;
    Clock clock;
    const std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();

    void OnReadDone(bool ok) override;
    void OnWriteDone(bool ok) override;
    void OnDone(const grpc::Status& status) override;

private:
    struct Entry {
        v1::Frame frame;
        std::size_t size;
        bool is_ping;
    };

    explicit Connection(std::shared_ptr<Stream::Shared> shared);
    void go_on();
    bool next();
    void stamp_ping();
    bool learn_of_wall();
    void take_opened();
    void take_pong(const v1::ClockPong& pong);
    void fail(Error failure);

    std::shared_ptr<Stream::Shared> shared_;
    std::shared_ptr<Connection> self_;  // until gRPC is done with it
    grpc::ClientContext context_;
    v1::StreamRequest request_;
    v1::StreamResponse response_;
    std::deque<Entry> queue_;
    std::size_t frames_ = 0, bytes_ = 0;
    std::vector<std::uint64_t> cancels_;
    bool writing_ = true, finishing_ = false, half_closed_ = false, reading_ = true, closing_ = false;
    bool ping_due_ = false;
    std::int64_t wall_moved_ns_;  // what `clock` knows of
    std::uint64_t ping_id_ = 0;
    std::int64_t ping_moved_ns_ = 0;  // how far the wall clock had been set when the newest ping was sent
    int pings_in_a_row_;
};

}  // namespace duly
