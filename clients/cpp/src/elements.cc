// Inputs of frames, and elements that C++ has no type for: text of any length, and BF16.
#include <cmath>
#include <cstring>

#include "duly/duly.h"

namespace duly {

Input jpeg(const void* data, std::size_t size) { return Input{data, size, Encoding::jpeg, {}, {}, {}}; }
Input png(const void* data, std::size_t size) { return Input{data, size, Encoding::png, {}, {}, {}}; }

namespace {

Input array(const void* data, std::size_t element, DataType type, std::vector<std::int64_t> shape) {
    for (const std::int64_t extent : shape) element *= static_cast<std::size_t>(extent);
    return Input{data, element, Encoding::unspecified, type, std::move(shape), {}};
}

}  // namespace

Input floats(const float* values, std::vector<std::int64_t> shape) {
    return array(values, sizeof(float), DataType::fp32, std::move(shape));
}

Input bytes(const std::uint8_t* values, std::vector<std::int64_t> shape) {
    return array(values, 1, DataType::uint8, std::move(shape));
}

Input texts(const std::string& data, std::vector<std::int64_t> shape) {
    return Input{data.data(), data.size(), Encoding::unspecified, DataType::string, std::move(shape), {}};
}

Input bfloat16s(const std::uint16_t* bits, std::vector<std::int64_t> shape) {
    return array(bits, sizeof(std::uint16_t), DataType::bf16, std::move(shape));
}

namespace {

constexpr std::size_t length_bytes = 4;

}  // namespace

std::string text_data(const std::vector<std::string>& texts) {
    std::string data;
    for (const std::string& text : texts) {
        for (std::size_t nth = 0; nth < length_bytes; ++nth) data.push_back(static_cast<char>(text.size() >> 8 * nth));
        data += text;
    }
    return data;
}

std::optional<std::vector<std::string>> Tensor::texts() const {
    if (type != DataType::string) return std::nullopt;
    std::vector<std::string> texts;
    for (std::size_t at = 0; at < data.size();) {
        if (data.size() - at < length_bytes) return std::nullopt;
        std::size_t length = 0;
        for (std::size_t nth = 0; nth < length_bytes; ++nth) {
            length |= static_cast<std::size_t>(static_cast<unsigned char>(data[at + nth])) << 8 * nth;
        }
        at += length_bytes;
        if (data.size() - at < length) return std::nullopt;
        texts.emplace_back(data, at, length);
        at += length;
    }
    return texts;
}

std::uint16_t to_bfloat16(float number) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof bits);
    if (std::isnan(number)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);  // rounded it might be an infinity
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_bfloat16(std::uint16_t bits) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float number = 0;
    std::memcpy(&number, &wide, sizeof number);
    return number;
}

}  // namespace duly
