// Streams a JPEG thirty times a second for a second and says what became of each frame:
//
//     picture 127.0.0.1:8500 yolo street.jpg
#include <duly/duly.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: picture HOST:PORT MODEL FILE.jpg\n");
        return 2;
    }
    std::ifstream file(arguments[3], std::ios::binary);
    const std::string picture{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (picture.empty()) {
        std::fprintf(stderr, "%s cannot be read\n", arguments[3]);
        return 1;
    }
    duly::Client client(arguments[1]);
    duly::Terms terms;
    terms.model = arguments[2];
    terms.name = "camera";
    terms.budget = std::chrono::milliseconds(250);
    duly::Error error;
    const auto stream = client.open(terms, &error);
    if (!stream) {
        std::fprintf(stderr, "%s\n", error.message.c_str());
        return 1;
    }
    // A camera does not wait: a frame for which there is no room is dropped here, by who knows that it is the oldest.
    std::thread camera([&stream, &picture] {
        for (int frame = 0; frame < 30; ++frame) {
            const duly::Sent sent = stream->try_send(duly::Frame(duly::jpeg(picture.data(), picture.size())));
            if (sent.status == duly::SendStatus::full) std::printf("no room for a frame\n");
            std::this_thread::sleep_for(std::chrono::microseconds(33'333));
        }
        stream->finish();
    });
    duly::Outcome outcome;
    while (stream->next(&outcome) == duly::Next::outcome) {
        std::printf("frame %llu: %s after %.1f ms %s\n", static_cast<unsigned long long>(outcome.id),
                    duly::name_of(outcome.status), outcome.latency.count() / 1e6, outcome.reason.c_str());
        for (const duly::Tensor& output : outcome.outputs) {
            std::printf("  %s: %zu bytes of %s\n", output.name.c_str(), output.data.size(), duly::name_of(output.type));
        }
    }
    camera.join();
    error = stream->error();
    if (error) std::fprintf(stderr, "%s\n", error.message.c_str());
    return error ? 1 : 0;
}
