#include <algorithm>
#include <random>
#include <utility>

#include "errors.h"
#include "shared.h"

namespace duly {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using Lock = std::unique_lock<std::mutex>;
using SharedPtr = std::shared_ptr<Stream::Shared>;

// How long opening waits for the clocks to be related. Until they are, budgets count from receipt.
constexpr milliseconds clock_wait{1000};
// Pauses between two tries to connect. They double, and each is shortened at random by up to a half.
constexpr milliseconds backoff_min{100}, backoff_max{5000};
// No pause is longer while a stream opens for the first time.
constexpr milliseconds open_pause_max{1000};
// How long `send` waits for an application that reads no outcomes.
constexpr milliseconds unread_wait{10'000};
// At least what the fields of a frame take beside the bytes of its inputs.
constexpr std::size_t frame_fields_bytes = 64;

nanoseconds backoff_after(int tries) {
    thread_local std::minstd_rand random{std::random_device{}()};
    const nanoseconds pause = std::min(backoff_max, backoff_min * (1 << std::min(tries, 10)));
    return nanoseconds(std::uniform_int_distribution<std::int64_t>(pause.count() / 2, pause.count())(random));
}

// When the application asked, and when the frame was captured.
struct Asked {
    std::int64_t captured_ns;  // by the wall clock as it was then
    std::int64_t moved_ns;     // how far it had been set by then
    std::int64_t monotonic_ns;
    std::int64_t age_ns;  // since capture
};

Asked ask(Stream::Shared& shared, const Frame& frame) {
    const Now now = shared.wall.now();
    const std::int64_t stated_ns = nanoseconds(frame.captured.time_since_epoch()).count();
    const std::int64_t captured_ns = stated_ns != 0 ? stated_ns : now.wall_ns;
    return Asked{captured_ns, shared.wall.moved_ns, now.monotonic_ns, now.wall_ns - captured_ns};
}

std::size_t size_of(const Frame& frame) {
    std::size_t size = frame_fields_bytes;
    for (const Input& input : frame.inputs) size += input.size + input.name.size() + 10 * input.shape.size() + 24;
    return size;
}

v1::Frame message_of(const Frame& frame, std::uint64_t id, std::int64_t captured_ns) {
    v1::Frame message;
    message.set_frame_id(id);
    message.set_capture_time_unix_nano(captured_ns);
    message.set_budget_nano(frame.budget.count());
    message.set_must_run(frame.must_run);
    for (const Input& input : frame.inputs) {
        if (input.encoding != Encoding::unspecified) {
            v1::Encoded* encoded = message.add_encoded();
            encoded->set_name(input.name);
            encoded->set_format(static_cast<v1::EncodedFormat>(input.encoding));
            encoded->set_data(input.data, input.size);
        } else {
            v1::Tensor* tensor = message.add_tensors();
            tensor->set_name(input.name);
            tensor->set_datatype(static_cast<v1::DataType>(input.type));
            for (const std::int64_t extent : input.shape) tensor->add_shape(extent);
            tensor->set_data(input.data, input.size);
        }
    }
    return message;
}

// Gives a frame to the connection, or keeps it back. Returns its id; 0: the transport is full.
std::uint64_t try_put(Stream::Shared& shared, const Frame& frame, std::size_t size, const Asked& asked) {
    const std::int64_t now_ns = shared.wall.now().monotonic_ns;
    shared.connection->heed();
    if (!frame.must_run && !shared.pace.due(now_ns)) {
        const std::uint64_t id = shared.frames.take_id();
        shared.frames.keep_back(id, now_ns - asked.monotonic_ns + asked.age_ns, shared.pace.period_ns());
        shared.changed.notify_all();
        return id;
    }
    if (!shared.connection->has_room(size)) return 0;
    const std::uint64_t id = shared.frames.take_id();
    const std::int64_t captured_ns = asked.captured_ns + shared.wall.moved_ns - asked.moved_ns;
    shared.frames.sent(id, asked.monotonic_ns - asked.age_ns, size);
    shared.connection->put(message_of(frame, id, std::max<std::int64_t>(1, captured_ns)), size);
    shared.pace.sent(now_ns);
    return id;
}

// Opens a connection by `give_up`. Returns what went wrong; no error: it is open.
Error connect(const SharedPtr& shared, Lock& lock, steady_clock::time_point give_up) {
    if (shared->client->wrong) return shared->client->wrong;
    const std::shared_ptr<Connection> connection = shared->newest = Connection::begin(shared);
    const bool in_time = shared->changed.wait_until(
        lock, give_up, [&] { return connection->is_open || connection->is_over || shared->closed; });
    if (connection->is_open) {
        shared->connection = connection;
        if (shared->stopping) connection->finish();
        shared->changed.notify_all();
        return Error{};
    }
    if (connection->is_over) return connection->error;
    connection->end();
    shared->changed.wait(lock, [&] { return connection->is_over; });
    const char* why = in_time ? ": the stream was closed" : " in time";
    return make_error(grpc::DEADLINE_EXCEEDED, "no answer from " + shared->client->target + why);
}

// Opens a new connection after `error` ended the last one. Returns false where the stream has ended, with `error` where
// that is why.
bool reconnect(const SharedPtr& shared, Lock& lock, Error* error, int* tries) {
    while (true) {
        if (shared->stopping && (error->recoverable() || shared->closed)) {
            *error = Error{};
            return false;
        }
        if (!error->recoverable() || !shared->client->settings.reconnect) return false;
        const auto pause_end = steady_clock::now() + backoff_after((*tries)++);
        if (shared->changed.wait_until(lock, pause_end, [&] { return shared->stopping; })) continue;
        Error failure = connect(shared, lock, steady_clock::now() + shared->client->settings.open_timeout);
        if (!failure) return true;
        *error = std::move(failure);
        shared->lost = "connection lost: " + error->message;
    }
}

// Watches one connection after the other until the stream ends.
void run(const SharedPtr& shared) {
    Lock lock(shared->lock);
    Error error;
    int tries = 0;
    do {
        const std::shared_ptr<Connection> connection = shared->connection;
        while (!shared->changed.wait_for(lock, ping_period, [&] { return connection->is_over; })) connection->ping();
        error = connection->error;
        std::string reason = (error.recoverable() ? "connection lost: " : "stream ended: ") + error.message;
        if (shared->closed) reason = "the stream was closed";
        shared->connection.reset();
        shared->newest.reset();
        shared->lost = reason;
        shared->frames.cancel_in_flight(shared->wall.now().monotonic_ns, reason);
        if (shared->closed) shared->frames.drop_outcomes();
        shared->changed.notify_all();
        if (steady_clock::now() - connection->since > backoff_max) tries = 0;  // it was a good connection
    } while (reconnect(shared, lock, &error, &tries));
    shared->ended = shared->stopping = true;
    shared->error = std::move(error);
    shared->changed.notify_all();
}

}  // namespace

// Opens a stream for the first time: what may pass is tried again as long as the time to open lasts.
std::unique_ptr<Stream> Client::open(const Terms& terms, Error* error) {
    const auto shared = std::make_shared<Stream::Shared>();
    shared->client = connections_;
    shared->terms = terms;
    const auto give_up = steady_clock::now() + connections_->settings.open_timeout;
    Lock lock(shared->lock);
    for (int tries = 0;; ++tries) {
        *error = connect(shared, lock, give_up);
        if (!*error) break;
        const nanoseconds pause = std::min<nanoseconds>(open_pause_max, backoff_after(tries));
        const bool passes = error->recoverable() && error->reason != "ADMISSION_REFUSED";
        if (!passes || !connections_->settings.reconnect || steady_clock::now() + pause >= give_up) return nullptr;
        lock.unlock();
        std::this_thread::sleep_for(pause);
        lock.lock();
    }
    const std::shared_ptr<Connection> connection = shared->connection;
    shared->changed.wait_for(lock, clock_wait, [&] { return connection->is_related || connection->is_over; });
    shared->runner = std::thread(run, shared);
    return std::make_unique<Stream>(shared);
}

Stream::Stream(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

Stream::~Stream() {
    close();
    shared_->runner.join();
}

Agreed Stream::agreed() const {
    const Lock lock(shared_->lock);
    return shared_->agreed;
}

std::string Stream::key_of(std::uint64_t id) const {
    const Lock lock(shared_->lock);
    return shared_->frames.key_of(id);
}

Error Stream::error() const {
    const Lock lock(shared_->lock);
    return shared_->error;
}

std::optional<ClockEstimate> Stream::clock() const {
    const Lock lock(shared_->lock);
    if (!shared_->connection) return std::nullopt;
    const std::int64_t now_ns = shared_->wall.now().wall_ns;
    shared_->connection->heed();
    return shared_->connection->clock.estimate(now_ns);
}

Sent Stream::send(const Frame& frame) {
    Lock lock(shared_->lock);
    Shared& shared = *shared_;
    const std::size_t size = size_of(frame);
    const Asked asked = ask(shared, frame);
    const auto called = steady_clock::now();
    auto full_since = steady_clock::time_point::max();
    while (true) {
        if (shared.stopping || shared.ended) return Sent{SendStatus::ended, 0};
        const bool full = !shared.frames.has_room();
        if (shared.connection && !full) {
            if (const std::uint64_t id = try_put(shared, frame, size, asked)) return Sent{SendStatus::sent, id};
            shared.changed.wait(lock);  // for the transport: as long as it takes
        } else if (full) {
            full_since = std::min(full_since, steady_clock::now());
            if (shared.changed.wait_until(lock, full_since + unread_wait) == std::cv_status::timeout &&
                !shared.frames.has_room() && !shared.frames.reads_enough()) {
                return Sent{SendStatus::too_slow, 0};
            }
        } else {
            const nanoseconds budget = frame.budget.count() != 0 ? frame.budget : shared.agreed.budget;
            if (steady_clock::now() >= called + budget) {
                const std::uint64_t id = shared.frames.take_id();
                const std::int64_t waited_ns = shared.wall.now().monotonic_ns - asked.monotonic_ns;
                shared.frames.cancel(id, waited_ns + asked.age_ns, "not sent, " + shared.lost);
                shared.changed.notify_all();
                return Sent{SendStatus::sent, id};
            }
            shared.changed.wait_until(lock, called + budget);
        }
        if (shared.frames.has_room()) full_since = steady_clock::time_point::max();
    }
}

Sent Stream::try_send(const Frame& frame) {
    const Lock lock(shared_->lock);
    Shared& shared = *shared_;
    if (shared.stopping || shared.ended) return Sent{SendStatus::ended, 0};
    const std::size_t size = size_of(frame);
    if (!shared.connection || !shared.frames.has_room() || !shared.frames.has_credit(size)) {
        return Sent{SendStatus::full, 0};
    }
    const std::uint64_t id = try_put(shared, frame, size, ask(shared, frame));
    return Sent{id != 0 ? SendStatus::sent : SendStatus::full, id};
}

void Stream::cancel(const std::vector<std::uint64_t>& ids) {
    const Lock lock(shared_->lock);
    for (const std::uint64_t id : ids) {
        if (shared_->connection && shared_->frames.is_in_flight(id)) shared_->connection->cancel_frame(id);
    }
}

Next Stream::next(Outcome* outcome, nanoseconds timeout) {
    Lock lock(shared_->lock);
    const auto ready = [this] { return shared_->frames.has_unread() || shared_->ended; };
    if (timeout.count() < 0) {
        shared_->changed.wait(lock, ready);
    } else if (!shared_->changed.wait_for(lock, timeout, ready)) {
        return Next::timeout;
    }
    if (!shared_->frames.has_unread()) return Next::end;
    *outcome = shared_->frames.take();
    if (shared_->connection) shared_->connection->resume();
    shared_->changed.notify_all();
    return Next::outcome;
}

void Stream::finish() {
    const Lock lock(shared_->lock);
    shared_->stopping = true;
    if (shared_->connection) shared_->connection->finish();
    shared_->changed.notify_all();
}

void Stream::close() {
    const Lock lock(shared_->lock);
    shared_->stopping = shared_->closed = true;
    shared_->frames.drop_outcomes();
    if (shared_->newest) {
        shared_->newest->end();
        shared_->newest->resume();  // only who reads hears of the end
    }
    shared_->changed.notify_all();
}

}  // namespace duly
