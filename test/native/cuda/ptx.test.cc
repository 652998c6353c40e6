// The instructions of PTX that the translated kernels compute with.
#include "ptx.h"

#include <gtest/gtest.h>

#include <limits>

namespace ptx {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(Ptx, ShiftsByTheWidthLeaveTheSignAlone) {
  EXPECT_EQ(shl<uint32_t>(3, 31), 0x80000000u);
  EXPECT_EQ(shl<uint32_t>(3, 32), 0u);
  EXPECT_EQ(shr<uint32_t>(0x80000000, 31), 1u);
  EXPECT_EQ(shr<uint32_t>(0x80000000, 32), 0u);
  EXPECT_EQ(shr<int32_t>(-8, 1), -4);
  EXPECT_EQ(shr<int32_t>(-8, 40), -1);
  EXPECT_EQ(shr<uint64_t>(uint64_t{1} << 63, 63), 1u);
  EXPECT_EQ(shf_l_wrap(0x80000001, 0x00000002, 1), 0x00000005u);
  EXPECT_EQ(shf_l_wrap(0x80000001, 0x00000002, 32), 0x00000002u);
}

TEST(Ptx, BytesAndBitsMoveToTheirPlaces) {
  EXPECT_EQ(prmt(0x33221100, 0x77665544, 0x7632), 0x77663322u);
  EXPECT_EQ(prmt(0x33221180, 0, 0x0808), 0x80ff80ffu);
  EXPECT_EQ(bfi(0xff, 0, 4, 4), 0xf0u);
  EXPECT_EQ(bfi(0, 0xffffffff, 1, 1), 0xfffffffdu);
  EXPECT_EQ(bfi(5, 7, 0, 32), 5u);
  EXPECT_EQ(bfi(5, 7, 32, 4), 7u);
  EXPECT_EQ(min_s16x2(0x7fff8000, 0x7fbe0001), 0x7fbe8000u);
}

TEST(Ptx, LeastAndGreatestPassNaNThrough) {
  EXPECT_EQ(min_nan(1, 2), 1);
  EXPECT_EQ(max_nan(-kInfinity, 2), 2);
  EXPECT_TRUE(std::signbit(min_nan(0.0f, -0.0f)));
  EXPECT_FALSE(std::signbit(max_nan(-0.0f, 0.0f)));
  for (const float value : {min_nan(kNaN, 1), min_nan(1, kNaN), max_nan(-kNaN, 1), max_nan(1, kNaN)})
    EXPECT_EQ(bit_cast<uint32_t>(value), 0x7fffffffu);
}

TEST(Ptx, HalvesAreRoundedToTheNearestAndNaNIsOne) {
  EXPECT_EQ(to_f16(1 + 0x1p-11f), 0x3c00);  // a tie, to even
  EXPECT_EQ(to_f16(1 + 0x1.8p-10f), 0x3c02);
  EXPECT_EQ(to_f16(65520), 0x7c00);
  EXPECT_EQ(to_f16(-kNaN), 0x7fff);
  EXPECT_EQ(from_f16(0xc400), -4);
  EXPECT_EQ(to_bf16x2(1 + 0x1p-8f, 1 + 0x1.8p-7f), 0x3f803f82u);
  EXPECT_EQ(to_bf16x2(3.4e38f, -kNaN), 0x7f807fffu);
}

TEST(Ptx, MemoryIsReadAndWrittenAsRegistersAre) {
  alignas(8) char memory[8] = {};
  store<uint16_t>(memory, 1, uint32_t{0x89abcdef});
  EXPECT_EQ(load<uint32_t>(memory, 0), 0xcdef0000u);
  EXPECT_EQ(write(uint32_t{}, 1.0f), 0x3f800000u);
  EXPECT_EQ(write(float{}, uint32_t{0x3f800000}), 1.0f);
  EXPECT_EQ(write(uint16_t{}, 0x12345), 0x2345);
  EXPECT_DEATH(check(address_of(memory) + 4, 8), "an access of 8 bytes at a misaligned address");
}

}  // namespace
}  // namespace ptx
