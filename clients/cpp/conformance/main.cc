// The program of this client for the conformance suite; see clients/conformance/README.md.
#include <duly/duly.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <chrono>
#include <cstring>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using google::protobuf::ListValue;
using google::protobuf::Struct;
using google::protobuf::Value;
using std::chrono::nanoseconds;

// ---- JSON ----

const Value* found(const Struct& json, const std::string& key) {
    const auto field = json.fields().find(key);
    return field == json.fields().end() ? nullptr : &field->second;
}

std::string text(const Struct& json, const std::string& key) {
    const Value* value = found(json, key);
    return value == nullptr ? "" : value->string_value();
}

double number(const Struct& json, const std::string& key, double otherwise = 0) {
    const Value* value = found(json, key);
    return value == nullptr ? otherwise : value->number_value();
}

bool truth(const Struct& json, const std::string& key, bool otherwise = false) {
    const Value* value = found(json, key);
    return value == nullptr ? otherwise : value->bool_value();
}

template <typename T>
std::vector<T> numbers(const Struct& json, const std::string& key) {
    std::vector<T> result;
    if (const Value* list = found(json, key)) {
        for (const Value& value : list->list_value().values()) result.push_back(static_cast<T>(value.number_value()));
    }
    return result;
}

std::vector<std::string> texts(const Struct& json, const std::string& key) {
    std::vector<std::string> result;
    if (const Value* list = found(json, key)) {
        for (const Value& value : list->list_value().values()) result.push_back(value.string_value());
    }
    return result;
}

Value of(double value) {
    Value result;
    result.set_number_value(value);
    return result;
}

Value of(const std::string& value) {
    Value result;
    result.set_string_value(value);
    return result;
}

Value of(bool value) {
    Value result;
    result.set_bool_value(value);
    return result;
}

Value of(const Struct& json) {
    Value result;
    *result.mutable_struct_value() = json;
    return result;
}

template <typename T>
Value of(const std::vector<T>& values) {
    Value result;
    result.mutable_list_value();
    for (const auto& value : values) *result.mutable_list_value()->add_values() = of(value);
    return result;
}

Value nothing() {
    Value result;
    result.set_null_value(google::protobuf::NULL_VALUE);
    return result;
}

using Fields = std::vector<std::pair<std::string, Value>>;

Struct json_of(const Fields& fields) {
    Struct json;
    for (const auto& [key, value] : fields) (*json.mutable_fields())[key] = value;
    return json;
}

void say(const std::string& event, const Fields& fields) {
    static std::mutex saying;
    Struct json = json_of(fields);
    (*json.mutable_fields())["event"] = of(event);
    std::string line;
    if (!google::protobuf::util::MessageToJsonString(json, &line).ok()) std::abort();
    const std::lock_guard<std::mutex> guard(saying);
    std::cout << line << std::endl;
}

std::string base64(const std::string& encoded) {
    static const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string data;
    unsigned bits = 0;
    int count = 0;
    for (const char digit : encoded) {
        const std::size_t value = digits.find(digit);
        if (value == std::string::npos) break;
        bits = bits << 6 | static_cast<unsigned>(value);
        if ((count += 6) >= 8) data += static_cast<char>(bits >> (count -= 8) & 0xff);
    }
    return data;
}

// ---- what the library says ----

double ms(nanoseconds span) { return static_cast<double>(span.count()) / 1e6; }
nanoseconds span(double ms) { return nanoseconds(static_cast<std::int64_t>(ms * 1e6)); }

// The enumeration's value by its name; `unspecified` where there is none.
template <typename Enum>
Enum named(const std::string& name, int count) {
    for (int value = 1; value <= count; ++value) {
        if (name == duly::name_of(static_cast<Enum>(value))) return static_cast<Enum>(value);
    }
    return Enum::unspecified;
}

std::vector<Struct> specs(const std::vector<duly::Spec>& all) {
    std::vector<Struct> result;
    for (const duly::Spec& spec : all) {
        const std::vector<double> shape(spec.shape.begin(), spec.shape.end());
        result.push_back(json_of({{"name", of(spec.name)}, {"dtype", of(std::string(duly::name_of(spec.type)))}, {"shape", of(shape)}}));
    }
    return result;
}

void say_opened(const duly::Agreed& agreed) {
    say("opened", {{"version", of(agreed.version)},
                   {"class", of(std::string(duly::name_of(agreed.stream_class)))},
                   {"backlog", of(std::string(duly::name_of(agreed.backlog)))},
                   {"backlog_frames", of(double(agreed.backlog_frames))},
                   {"ordering", of(std::string(duly::name_of(agreed.ordering)))},
                   {"budget_ms", of(ms(agreed.budget))},
                   {"frames_in_flight_max", of(double(agreed.frames_in_flight_max))},
                   {"inputs", of(specs(agreed.inputs))},
                   {"outputs", of(specs(agreed.outputs))}});
}

void say_outcome(const duly::Outcome& outcome) {
    Struct outputs;
    for (const duly::Tensor& tensor : outcome.outputs) {
        std::size_t count = 0;
        std::vector<double> values;
        if (const auto texts = tensor.texts()) {
            (*outputs.mutable_fields())[tensor.name] = of(*texts);
            continue;
        }
        if (tensor.type == duly::DataType::bf16) {
            const auto* elements = tensor.as<std::uint16_t>(&count);
            for (std::size_t nth = 0; elements != nullptr && nth < count; ++nth) {
                values.push_back(duly::from_bfloat16(elements[nth]));
            }
        } else if (tensor.type == duly::DataType::fp32) {
            const float* elements = tensor.as<float>(&count);
            if (elements != nullptr) values.assign(elements, elements + count);
        } else {
            const auto* elements = tensor.as<std::uint8_t>(&count);
            values.assign(elements, elements + count);
        }
        (*outputs.mutable_fields())[tensor.name] = of(values);
    }
    say("outcome", {{"id", of(double(outcome.id))},
                    {"status", of(std::string(duly::name_of(outcome.status)))},
                    {"outputs", of(outputs)},
                    {"version", of(outcome.version)},
                    {"reason", of(outcome.reason)},
                    {"latency_ms", of(ms(outcome.latency))},
                    {"capture_to_receipt_ms", of(ms(outcome.timing.capture_to_receipt))},
                    {"clock_uncertainty_ms", of(ms(outcome.timing.clock_uncertainty))},
                    {"guards", of(outcome.guards)}});
}

void say_advice(const duly::Advice& advice) {
    say("advice", {{"kind", of(std::string(duly::name_of(advice.kind)))},
                   {"period_ms", of(ms(advice.period))},
                   {"version", of(advice.version)},
                   {"reason", of(advice.reason)}});
}

void say_clock(const std::optional<duly::ClockEstimate>& estimate) {
    say("clock", {{"offset_ns", estimate ? of(double(estimate->offset_ns)) : nothing()},
                  {"uncertainty_ns", estimate ? of(double(estimate->uncertainty_ns)) : nothing()}});
}

// ---- what it is told ----

class Program {
public:
    ~Program() {
        if (stream_) stream_->close();
        if (reading_.joinable()) reading_.join();
    }

    void take(const Struct& command) {
        const std::string action = text(command, "do");
        if (action == "open") {
            open(command);
        } else if (action == "clock_of") {
            clock_of(command);
        } else if (action == "pace_of") {
            pace_of(command);
        } else if (!stream_) {
            say("error", {{"message", of(std::string("no stream is open"))}});
        } else if (action == "send") {
            send(command);
        } else if (action == "try_send") {
            try_send(command);
        } else if (action == "cancel") {
            stream_->cancel(numbers<std::uint64_t>(command, "ids"));
        } else if (action == "feedback") {
            feedback(command);
        } else if (action == "clock") {
            say_clock(stream_->clock());
        } else if (action == "finish") {
            stream_->finish();
        } else if (action == "close") {
            stream_->close();
        } else {
            say("error", {{"message", of("unknown command " + action)}});
        }
    }

private:
    void open(const Struct& command) {
        duly::Settings settings;
        settings.token = text(command, "token");
        settings.reconnect = truth(command, "reconnect", true);
        settings.open_timeout = span(number(command, "open_timeout_ms", 10'000));
        client_ = std::make_unique<duly::Client>(text(command, "target"), settings);
        duly::Terms terms;
        terms.model = text(command, "model");
        terms.version = text(command, "version");
        terms.name = text(command, "name");
        terms.stream_class = named<duly::Class>(text(command, "class"), 3);
        terms.backlog = named<duly::Backlog>(text(command, "backlog"), 3);
        terms.backlog_frames = static_cast<std::int32_t>(number(command, "backlog_frames"));
        terms.ordering = named<duly::Ordering>(text(command, "ordering"), 3);
        terms.gap = named<duly::Gap>(text(command, "gap"), 3);
        const std::vector<std::int32_t> floor = numbers<std::int32_t>(command, "floor");
        if (floor.size() == 2) terms.floor_frames = floor[0], terms.floor_window = floor[1];
        terms.budget = span(number(command, "budget_ms"));
        terms.period = span(number(command, "period_ms"));
        if (const Value* outputs = found(command, "outputs")) {
            for (const Value& name : outputs->list_value().values()) terms.outputs.push_back(name.string_value());
        }
        terms.variant_lowest = text(command, "variant_lowest");
        terms.follow_advice = truth(command, "follow_advice");
        terms.on_advice = say_advice;
        duly::Error error;
        stream_ = client_->open(terms, &error);
        if (!stream_) {
            Struct metadata;
            for (const auto& [key, value] : error.metadata) (*metadata.mutable_fields())[key] = of(value);
            say("refused", {{"reason", of(error.reason)}, {"message", of(error.message)}, {"metadata", of(metadata)}});
            return;
        }
        say_opened(stream_->agreed());
        reading_ = std::thread([this] {
            duly::Outcome outcome;
            while (stream_->next(&outcome) == duly::Next::outcome) say_outcome(outcome);
            const duly::Error ended = stream_->error();
            say("ended", {{"reason", of(ended.reason)}, {"message", of(ended.message)}});
        });
    }

    // Calls `use` with each frame that the command is about.
    template <typename Use>
    void frames(const Struct& command, const Use& use) {
        const std::vector<float> values = numbers<float>(command, "values");
        const std::string data = base64(text(command, "data"));
        std::vector<std::int64_t> shape = numbers<std::int64_t>(command, "shape");
        const std::vector<std::string> written = texts(command, "texts");
        const std::string text_data = duly::text_data(written);
        std::vector<std::uint16_t> halves;
        for (const float value : values) halves.push_back(duly::to_bfloat16(value));
        if (shape.empty()) shape.push_back(static_cast<std::int64_t>(values.size() + written.size()));
        duly::Input input = duly::floats(values.data(), shape);
        if (text(command, "dtype") == "BF16") input = duly::bfloat16s(halves.data(), shape);
        if (found(command, "texts") != nullptr) input = duly::texts(text_data, shape);
        const std::string format = text(command, "format");
        if (format == "PNG") input = duly::png(data.data(), data.size());
        if (format == "JPEG") input = duly::jpeg(data.data(), data.size());
        input.name = text(command, "input");
        duly::Frame frame(input);
        frame.budget = span(number(command, "budget_ms"));
        frame.must_run = truth(command, "must_run");
        for (int nth = 0; nth < number(command, "count", 1); ++nth) {
            frame.captured = std::chrono::system_clock::now() - span(number(command, "captured_ago_ms"));
            use(frame);
        }
    }

    void send(const Struct& command) {
        std::vector<double> ids;
        frames(command, [&](const duly::Frame& frame) {
            const duly::Sent sent = stream_->send(frame);
            if (sent) {
                ids.push_back(static_cast<double>(sent.id));
            } else {
                say("error", {{"message", of("not sent: " + stream_->error().message)}});
            }
        });
        say("sent", {{"ids", of(ids)}});
    }

    void try_send(const Struct& command) {
        std::vector<double> ids;
        double full = 0;
        frames(command, [&](const duly::Frame& frame) {
            const duly::Sent sent = stream_->try_send(frame);
            if (sent) ids.push_back(static_cast<double>(sent.id));
            if (sent.status == duly::SendStatus::full) ++full;
        });
        say("tried", {{"ids", of(ids)}, {"full", of(full)}});
    }

    void feedback(const Struct& command) {
        std::vector<duly::Feedback> labels;
        for (const Value& value : found(command, "items")->list_value().values()) {
            const Struct& item = value.struct_value();
            duly::Feedback label;
            label.frame_id = static_cast<std::uint64_t>(number(item, "id"));
            label.stream_key = found(item, "key") != nullptr ? text(item, "key") : stream_->key_of(label.frame_id);
            label.weight = number(item, "weight", 1);
            label.source = text(item, "source");
            if (found(item, "number") != nullptr) {
                label.labels = {duly::class_number(static_cast<std::int64_t>(number(item, "number")))};
            } else if (found(item, "name") != nullptr) {
                label.labels = {duly::class_name(text(item, "name"))};
            } else {
                const std::vector<float> values = numbers<float>(item, "values");
                const std::string data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
                label.labels = {{text(item, "output"), duly::DataType::fp32, {std::int64_t(values.size())}, data}};
            }
            labels.push_back(std::move(label));
        }
        duly::Error error;
        std::vector<std::string> statuses, reasons;
        for (const duly::FeedbackResult& result : client_->feedback(labels, &error)) {
            statuses.push_back(duly::name_of(result.status));
            reasons.push_back(result.reason);
        }
        say("labelled", {{"reason", of(error.reason)}, {"statuses", of(statuses)}, {"reasons", of(reasons)}});
    }

    static void clock_of(const Struct& command) {
        duly::Clock clock;
        if (const Value* exchanges = found(command, "exchanges")) {
            for (const Value& exchange : exchanges->list_value().values()) {
                std::int64_t at[4] = {};
                for (int nth = 0; nth < 4; ++nth) {
                    at[nth] = static_cast<std::int64_t>(exchange.list_value().values(nth).number_value());
                }
                clock.add(at[0], at[1], at[2], at[3]);
            }
        }
        say_clock(clock.estimate(static_cast<std::int64_t>(number(command, "now_ns"))));
    }

    static void pace_of(const Struct& command) {
        duly::Pace pace;
        pace.advised(0, static_cast<std::int64_t>(number(command, "period_ns")), number(command, "phase"));
        std::vector<Value> due;
        Value list;
        list.mutable_list_value();
        for (const std::int64_t at_ns : numbers<std::int64_t>(command, "at_ns")) {
            const bool is_due = pace.due(at_ns);
            if (is_due) pace.sent(at_ns);
            *list.mutable_list_value()->add_values() = of(is_due);
        }
        say("pace", {{"due", list}});
    }

    std::unique_ptr<duly::Client> client_;
    std::unique_ptr<duly::Stream> stream_;
    std::thread reading_;
};

}  // namespace

int main() {
    Program program;
    std::string line;
    while (std::getline(std::cin, line)) {
        Struct command;
        if (google::protobuf::util::JsonStringToMessage(line, &command).ok()) {
            program.take(command);
        } else {
            say("error", {{"message", of("not JSON: " + line)}});
        }
    }
}
