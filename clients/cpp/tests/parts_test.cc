// Tests of the parts that need no server. What a case of the table shows stands there.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "feedback.h"
#include "frames.h"
#include "wall_clock.h"

#define CHECK(holds)                                                        \
    do {                                                                    \
        if (!(holds)) {                                                     \
            std::fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #holds); \
            std::exit(1);                                                   \
        }                                                                   \
    } while (false)

namespace {

duly::Agreed agreed(duly::Ordering ordering, int credit, long bytes = 0) {
    duly::Agreed agreed;
    agreed.ordering = ordering;
    agreed.frames_in_flight_max = credit;
    agreed.bytes_in_flight_max = bytes;
    return agreed;
}

duly::v1::OutcomeBatch answer(std::uint64_t id) {
    duly::v1::OutcomeBatch batch;
    batch.add_outcomes()->set_frame_id(id);
    batch.mutable_outcomes(0)->set_status(duly::v1::OUTCOME_STATUS_ON_TIME);
    return batch;
}

void what_is_kept_back_waits_for_earlier_frames_where_the_order_is_that_of_arrival() {
    duly::Frames frames;
    frames.agreed(agreed(duly::Ordering::arrival, 8));
    frames.sent(frames.take_id(), 0, 1);
    frames.keep_back(frames.take_id(), 0, 1);
    frames.sent(frames.take_id(), 0, 1);
    frames.keep_back(frames.take_id(), 0, 1);
    CHECK(!frames.has_unread());
    duly::v1::OutcomeBatch first = answer(1);
    CHECK(frames.answered(&first, 5).empty());
    frames.cancel_in_flight(5, "connection lost");
    for (std::uint64_t id = 1; id <= 4; ++id) CHECK(frames.take().id == id);
    CHECK(!frames.has_unread());
}

duly::Tensor tensor(duly::DataType type, std::string data) {
    duly::Tensor tensor;
    tensor.type = type;
    tensor.data = std::move(data);
    return tensor;
}

void text_comes_back_as_it_was() {
    const std::vector<std::string> texts = {"", "zw\xc3\xb6lf", std::string("a\0b", 3)};
    const std::string data = duly::text_data(texts);
    CHECK(data.substr(0, 8) == std::string("\0\0\0\0\6\0\0\0", 8));
    CHECK(tensor(duly::DataType::string, data).texts() == texts);
    CHECK(!tensor(duly::DataType::uint8, data).texts());
    const duly::Input input = duly::texts(data, {3});
    CHECK(input.data == data.data() && input.size == data.size() && input.type == duly::DataType::string);
}

void text_that_lies_is_none() {
    for (const std::string& data : {std::string("\1"), std::string("\5\0\0\0ab", 6), std::string("\xff\xff\xff\xff")}) {
        CHECK(!tensor(duly::DataType::string, data).texts());
    }
}

void bfloat16_is_rounded_to_the_nearest_even() {
    for (const float number : {1.0f, -2.5f, 0.0f, HUGE_VALF}) {
        CHECK(duly::from_bfloat16(duly::to_bfloat16(number)) == number);
    }
    CHECK(duly::from_bfloat16(duly::to_bfloat16(1 + 1 / 256.0f)) == 1);
    CHECK(duly::from_bfloat16(duly::to_bfloat16(1 + 3 / 256.0f)) == 1 + 4 / 256.0f);
    CHECK(std::isnan(duly::from_bfloat16(duly::to_bfloat16(std::nanf("")))));
}

void an_outcome_comes_once() {
    duly::Frames frames;
    frames.sent(frames.take_id(), 0, 1);
    duly::v1::OutcomeBatch once = answer(1), again = answer(1);
    CHECK(frames.answered(&once, 7).empty());
    CHECK(frames.answered(&again, 8) == "an outcome came for frame 1, which is not in flight");
    CHECK(frames.take().latency.count() == 7);
    CHECK(!frames.has_unread());
}

void credit_counts_frames_and_bytes_but_a_large_frame_may_go_alone() {
    duly::Frames frames;
    frames.agreed(agreed(duly::Ordering::unordered, 2, 100));
    CHECK(frames.has_credit(1000));
    frames.sent(frames.take_id(), 0, 60);
    CHECK(frames.has_credit(40));
    CHECK(!frames.has_credit(41));
    frames.sent(frames.take_id(), 0, 1);
    CHECK(!frames.has_credit(1));
}

std::vector<int> sizes(std::size_t count, const std::vector<duly::Tensor>& labels) {
    std::vector<duly::Feedback> items(count);
    for (std::size_t nth = 0; nth < count; ++nth) {
        items[nth].frame_id = nth;
        items[nth].labels = labels;
    }
    std::vector<int> sizes;
    std::uint64_t next = 0;
    for (const auto& request : duly::feedback_requests(items)) {
        sizes.push_back(request.items_size());
        for (const auto& item : request.items()) CHECK(item.frame_id() == next++);
    }
    CHECK(next == count);
    return sizes;
}

void many_labels_go_in_several_messages_in_their_order() {
    const int most = duly::feedback_items_max;
    CHECK(sizes(2 * most + 5, {duly::class_number(1)}) == std::vector<int>({most, most, 5}));
    const std::string half(duly::feedback_bytes_max / 2 - 100, '\0');
    CHECK(sizes(5, {tensor(duly::DataType::uint8, half)}) == std::vector<int>({2, 2, 1}));
    const std::vector<duly::Tensor> several(duly::feedback_labels_max - 1, duly::class_number(1));
    CHECK(sizes(2, several) == std::vector<int>({1, 1}));
    CHECK(sizes(0, several).empty());
}

void a_class_is_a_number_or_a_name() {
    const duly::Tensor number = duly::class_number(-2), name = duly::class_name("d\xc3\xb6g");
    CHECK(number.name == "label" && number.type == duly::DataType::int64 && number.shape.empty());
    CHECK(number.data == "\xfe" + std::string(7, '\xff'));
    CHECK(name.name == "label" && name.type == duly::DataType::string && name.shape.empty());
    CHECK(name.data == std::string("\4\0\0\0d\xc3\xb6g", 8));
}

void a_feedback_status_of_a_newer_server_is_pending() {
    duly::v1::FeedbackResult message;
    message.set_status(static_cast<duly::v1::FeedbackStatus>(99));
    message.set_reason("later");
    CHECK(duly::result_of(message).status == duly::FeedbackStatus::pending);
    CHECK(duly::result_of(message).reason == "later");
    message.set_status(duly::v1::FEEDBACK_STATUS_JOINED);
    CHECK(duly::result_of(message).status == duly::FeedbackStatus::joined);
}

void a_frame_has_the_key_of_the_connection_that_it_was_sent_over() {
    duly::Frames frames;
    CHECK(frames.key_of(1).empty());
    const std::uint64_t most = duly::Frames::keys_max;
    for (std::uint64_t nth = 1; nth <= 2 * most; ++nth) {
        duly::Agreed terms = agreed(duly::Ordering::unordered, 1);
        terms.stream_key = "key-" + std::to_string(nth);
        frames.agreed(terms);
        frames.take_id();
    }
    CHECK(frames.key_of(most).empty());
    CHECK(frames.key_of(most + 1) == "key-" + std::to_string(most + 1));
    CHECK(frames.key_of(2 * most) == "key-" + std::to_string(2 * most));
}

void only_a_clock_that_was_set_moves() {
    duly::WallClock clock;
    duly::Now now = clock.now();
    now.doubt_ns = 0;
    now.wall_ns += 900'000;
    clock.note(now);
    CHECK(clock.moved_ns == 0);
    now.wall_ns += 3'000'000;
    now.doubt_ns = 5'000'000;  // the look itself took as long
    clock.note(now);
    CHECK(clock.moved_ns == 0);
    now.wall_ns -= 3'600'000'000'000;
    now.doubt_ns = 0;
    clock.note(now);
    const std::int64_t moved_ns = clock.moved_ns;
    CHECK(moved_ns < -3'590'000'000'000);
    clock.note(now);
    CHECK(clock.moved_ns == moved_ns);
}

}  // namespace

int main() {
    what_is_kept_back_waits_for_earlier_frames_where_the_order_is_that_of_arrival();
    text_comes_back_as_it_was();
    text_that_lies_is_none();
    bfloat16_is_rounded_to_the_nearest_even();
    an_outcome_comes_once();
    credit_counts_frames_and_bytes_but_a_large_frame_may_go_alone();
    many_labels_go_in_several_messages_in_their_order();
    a_class_is_a_number_or_a_name();
    a_feedback_status_of_a_newer_server_is_pending();
    a_frame_has_the_key_of_the_connection_that_it_was_sent_over();
    only_a_clock_that_was_set_moves();
    std::puts("passed");
}
