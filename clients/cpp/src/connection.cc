#include "connection.h"

#include <algorithm>
#include <random>
#include <utility>

#include "errors.h"
#include "shared.h"

namespace duly {
namespace {

// Bounds of what waits for the write before it; one frame that is larger waits alone. They are small because older data is
// worth less than newer data.
constexpr std::size_t pending_frames_max = 64;
constexpr std::size_t pending_bytes_max = 256 * 1024;
// Exchanges, one after the other, when the stream opens: enough to meet a quick one.
constexpr int pings_at_open = 8;

double a_phase() {
    thread_local std::minstd_rand random{std::random_device{}()};
    return std::uniform_real_distribution<double>(0, 1)(random);
}

Spec spec_of(const v1::TensorSpec& message) {
    return Spec{message.name(), static_cast<DataType>(message.datatype()), {message.shape().begin(), message.shape().end()}};
}

v1::OpenStream open_request(const Terms& terms) {
    v1::OpenStream open;
    open.set_model(terms.model);
    open.set_version(terms.version);
    open.set_stream_name(terms.name);
    open.set_stream_class(static_cast<v1::StreamClass>(terms.stream_class));
    open.set_backlog_policy(static_cast<v1::BacklogPolicy>(terms.backlog));
    open.set_backlog_frames(terms.backlog_frames);
    open.set_ordering(static_cast<v1::Ordering>(terms.ordering));
    open.set_default_budget_nano(terms.budget.count());
    open.set_expected_period_nano(terms.period.count());
    for (const std::string& output : terms.outputs) open.add_outputs(output);
    open.set_gap_policy(static_cast<v1::GapPolicy>(terms.gap));
    open.set_variant_lowest(terms.variant_lowest);
    if (terms.floor_window != 0) {
        open.mutable_floor()->set_frames(terms.floor_frames);
        open.mutable_floor()->set_window(terms.floor_window);
    }
    return open;
}

}  // namespace

Connection::Connection(std::shared_ptr<Stream::Shared> shared)
    : shared_(std::move(shared)), wall_moved_ns_(shared_->wall.moved_ns), pings_in_a_row_(pings_at_open) {}

std::shared_ptr<Connection> Connection::begin(std::shared_ptr<Stream::Shared> shared) {
    std::shared_ptr<Connection> connection(new Connection(std::move(shared)));
    Client::Connections& client = *connection->shared_->client;
    connection->self_ = connection;
    client.show_token(&connection->context_);
    client.stub->async()->Stream(&connection->context_, connection.get());
    connection->AddHold();  // writes begin in threads of the application's; until reading is over
    *connection->request_.mutable_open() = open_request(connection->shared_->terms);
    connection->StartWrite(&connection->request_);
    connection->StartRead(&connection->response_);
    connection->StartCall();
    return connection;
}

// ---- writing ----

bool Connection::has_room(std::size_t size) const {
    return queue_.empty() || (frames_ < pending_frames_max && bytes_ + size <= pending_bytes_max);
}

void Connection::put(v1::Frame frame, std::size_t size) {
    queue_.push_back(Entry{std::move(frame), size, false});
    ++frames_;
    bytes_ += size;
    go_on();
}

void Connection::cancel_frame(std::uint64_t id) {
    cancels_.push_back(id);
    go_on();
}

void Connection::ping() {
    ping_due_ = true;
    go_on();
}

void Connection::finish() {
    finishing_ = true;
    go_on();
}

void Connection::heed() {
    if (!learn_of_wall()) return;
    queue_.push_back(Entry{{}, 0, true});
    pings_in_a_row_ = std::max(pings_in_a_row_, 1);
    go_on();
}

bool Connection::learn_of_wall() {
    const std::int64_t ahead_ns = shared_->wall.moved_ns - wall_moved_ns_;
    wall_moved_ns_ = shared_->wall.moved_ns;
    clock.moved(ahead_ns);
    return ahead_ns != 0;
}

void Connection::go_on() {
    if (writing_ || closing_ || half_closed_) return;
    if (next()) {
        writing_ = true;
        StartWrite(&request_);
    } else if (finishing_) {
        half_closed_ = true;
        StartWritesDone();
    }
}

// Makes the next message of what waits; frames go together. Returns false where nothing does.
bool Connection::next() {
    request_.Clear();
    if (ping_due_) {
        ping_due_ = false;
        stamp_ping();
    } else if (!queue_.empty() && queue_.front().is_ping) {
        queue_.pop_front();
        stamp_ping();
    } else if (!queue_.empty()) {
        v1::FrameBatch* batch = request_.mutable_frames();
        while (!queue_.empty() && !queue_.front().is_ping) {
            *batch->add_frames() = std::move(queue_.front().frame);
            --frames_;
            bytes_ -= queue_.front().size;
            queue_.pop_front();
        }
        shared_->changed.notify_all();
    } else if (!cancels_.empty()) {  // behind the frames that they may name
        for (const std::uint64_t id : cancels_) request_.mutable_cancel()->add_frame_ids(id);
        cancels_.clear();
    } else {
        return false;
    }
    return true;
}

void Connection::stamp_ping() {
    const std::int64_t now_ns = shared_->wall.now().wall_ns;
    learn_of_wall();
    v1::ClockPing* ping = request_.mutable_clock_ping();
    ping->set_ping_id(++ping_id_);
    ping->set_client_send_unix_nano(now_ns);
    ping_moved_ns_ = shared_->wall.moved_ns;
    // The server uses the estimate until the next one comes, so it must hold until then.
    if (const auto estimate = clock.estimate(now_ns + std::chrono::nanoseconds(ping_period).count())) {
        ping->mutable_clock()->set_offset_nano(estimate->offset_ns);
        ping->mutable_clock()->set_uncertainty_nano(estimate->uncertainty_ns);
    }
}

void Connection::OnWriteDone(bool ok) {
    const std::lock_guard<std::mutex> guard(shared_->lock);
    if (!ok) return;  // reading says why; nothing is written any more
    writing_ = false;
    if (is_open) go_on();
}

// ---- reading ----

void Connection::OnReadDone(bool ok) {
    Advice advice;
    {
        const std::lock_guard<std::mutex> guard(shared_->lock);
        reading_ = false;
        if (!ok) {
            closing_ = true;
        } else if (!is_open) {
            take_opened();
        } else if (response_.has_outcomes()) {
            const std::string wrong = shared_->frames.answered(response_.mutable_outcomes(), shared_->wall.now().monotonic_ns);
            if (!wrong.empty()) fail(make_error(grpc::INTERNAL, wrong));
            shared_->changed.notify_all();
        } else if (response_.has_clock_pong()) {
            take_pong(response_.clock_pong());
        } else if (response_.has_advice()) {
            advice = Advice{static_cast<AdviceKind>(response_.advice().kind()),
                            std::chrono::nanoseconds(response_.advice().period_nano()), response_.advice().version(),
                            response_.advice().reason()};
            const bool is_pace = advice.kind == AdviceKind::slow_down || advice.kind == AdviceKind::speed_up;
            if (shared_->terms.follow_advice && is_pace) {
                shared_->pace.advised(shared_->wall.now().monotonic_ns, advice.period.count(), a_phase());
            }
        }
    }
    if (advice.kind != AdviceKind::unspecified && shared_->terms.on_advice) shared_->terms.on_advice(advice);
    if (ok) {
        const std::lock_guard<std::mutex> guard(shared_->lock);
        resume();
    } else {
        RemoveHold();
    }
}

void Connection::resume() {
    if (reading_ || closing_ || !(shared_->frames.reads_enough() || shared_->closed)) return;
    reading_ = true;
    StartRead(&response_);
}

void Connection::take_opened() {
    if (!response_.has_opened()) {
        fail(make_error(grpc::INTERNAL, "the stream did not begin with StreamOpened"));
        return;
    }
    const v1::StreamOpened& opened = response_.opened();
    Agreed& agreed = shared_->agreed;
    agreed = Agreed{};
    agreed.stream_id = opened.stream_id();
    agreed.stream_key = opened.stream_key();
    agreed.version = opened.version();
    for (const v1::TensorSpec& spec : opened.inputs()) agreed.inputs.push_back(spec_of(spec));
    for (const v1::TensorSpec& spec : opened.outputs()) agreed.outputs.push_back(spec_of(spec));
    agreed.stream_class = static_cast<Class>(opened.stream_class());
    agreed.backlog = static_cast<Backlog>(opened.backlog_policy());
    agreed.backlog_frames = opened.backlog_frames();
    agreed.ordering = static_cast<Ordering>(opened.ordering());
    agreed.budget = std::chrono::nanoseconds(opened.default_budget_nano());
    agreed.planned_latency = std::chrono::nanoseconds(opened.planned_latency_nano());
    agreed.frames_in_flight_max = opened.frames_in_flight_max();
    agreed.bytes_in_flight_max = opened.bytes_in_flight_max();
    agreed.admission_warning = opened.admission_warning();
    shared_->frames.agreed(agreed);
    shared_->pace = Pace();  // another connection begins without advice
    is_open = true;
    ping();
    shared_->changed.notify_all();
}

void Connection::take_pong(const v1::ClockPong& pong) {
    const std::int64_t received_ns = shared_->wall.now().wall_ns;
    heed();
    if (pong.ping_id() != ping_id_) return;  // another ping followed it at once
    const std::int64_t sent_ns = pong.client_send_unix_nano() + shared_->wall.moved_ns - ping_moved_ns_;
    if (clock.add(sent_ns, pong.server_receive_unix_nano(), pong.server_send_unix_nano(), received_ns)) {
        pings_in_a_row_ = pings_at_open;  // a clock was set: the server shall know at once, and well
    }
    pings_in_a_row_ = std::max(0, pings_in_a_row_ - 1);
    if (pings_in_a_row_ > 0) ping();  // it has the estimate, and goes before any frame
    if (!is_related) {
        is_related = true;
        shared_->changed.notify_all();
    }
}

void Connection::fail(Error failure) {
    error = std::move(failure);
    context_.TryCancel();
}

void Connection::OnDone(const grpc::Status& status) {
    const std::shared_ptr<Connection> self = std::move(self_);
    const std::lock_guard<std::mutex> guard(shared_->lock);
    if (!error) error = error_of(status, shared_->client->target);
    is_over = closing_ = true;
    shared_->changed.notify_all();
}

}  // namespace duly
