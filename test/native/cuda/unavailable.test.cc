// Every reason why CUDA cannot be used, each in a process of its own, since a
// process opens the driver once.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "cuda/device.h"
#include "driver.h"

namespace fused_adamw::cuda {
namespace {

/// For processes of single tests: LeakSanitizer's tracer sometimes crashes in one that ends beside threads of the
/// driver.
constexpr const char* kWithoutLeaks = "detect_leaks=0";

/// Environment variables for the processes started in its scope.
class Environment {
 public:
  Environment(std::initializer_list<std::pair<std::string, std::string>> variables) {
    for (const auto& [name, value] : variables) set(name, value.c_str());
  }
  ~Environment() {
    for (const auto& [name, value] : before_) value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  /// Null unsets the variable.
  void set(const std::string& name, const char* value) {
    const char* before = std::getenv(name.c_str());
    before_.try_emplace(name, before ? std::optional<std::string>(before) : std::nullopt);
    value ? setenv(name.c_str(), value, 1) : unsetenv(name.c_str());
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}
/// Machine code, whose header gives its length.
std::string fatbin(uint64_t bytes, const std::string& content) {
  std::string header("\x50\xed\x55\xba\x01\x00\x10\x00", 8);
  header.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
  return header + content;
}
const std::string kContent = "fused-adamw device code of a test";
std::string usable() { return fatbin(kContent.size(), kContent); }

class WhyUnavailable : public ::testing::Test {
 protected:
  static constexpr const char* kChild = "FUSED_ADAMW_TEST_OF_A_DRIVER";  // set in the new process

  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    if (!testing::is_stand_in() && !std::getenv(kChild))
      GTEST_SKIP() << "only the stand-in driver can be made unusable";
  }

  /// Expects the reason that a new process gives with these variables and device code.
  static void expect(const std::string& reason, Environment environment, const std::string& device_code,
                     int ordinal = 0) {
    environment.set(kChild, "1");
    environment.set("ASAN_OPTIONS", kWithoutLeaks);
    const auto print = [&] {
      set_device_code(device_code);
      for (int i = 0; i < 2; ++i) {  // the same reason at each call
        try {
          Device::get(ordinal);
          std::fprintf(stderr, "usable;");
        } catch (const Unavailable& error) {
          std::fprintf(stderr, "%s;", error.what());
        }
      }
      std::exit(0);
    };
    EXPECT_EXIT(print(), ::testing::ExitedWithCode(0), reason + ";" + reason + ";");
  }
};

TEST_F(WhyUnavailable, NoReason) { expect("usable", {}, usable()); }

TEST_F(WhyUnavailable, LibraryWithoutTheFunctions) {
  expect("the CUDA driver is too old: it has no cuDriverGetVersion", {{"LD_LIBRARY_PATH", EMPTY_DRIVER}}, usable());
}

TEST_F(WhyUnavailable, DriverThatIsTooOld) {
  expect("the CUDA driver is too old: it is for CUDA 11.8, and 12.0 or later is needed",
         {{"FUSED_ADAMW_STAND_IN_DRIVER_VERSION", "11080"}}, usable());
}

TEST_F(WhyUnavailable, DriverThatDoesNotStart) {
  expect(
      "the CUDA driver does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH \\(system has unsupported display driver / "
      "cuda driver combination\\)",
      {{"FUSED_ADAMW_STAND_IN_INIT", "803"}}, usable());
}

TEST_F(WhyUnavailable, NoDevice) {
  expect("there is no CUDA device", {{"FUSED_ADAMW_STAND_IN_DEVICES", "0"}}, usable());
  expect("there is no CUDA device", {{"FUSED_ADAMW_STAND_IN_DEVICES", "0"}, {"FUSED_ADAMW_STAND_IN_INIT", "0"}},
         usable());
}

TEST_F(WhyUnavailable, NoSuchDevice) {
  expect("there is no device cuda:3, the last is cuda:0", {{"FUSED_ADAMW_STAND_IN_DEVICES", "1"}}, usable(), 3);
  expect("there is no device cuda:-1, the last is cuda:1", {{"FUSED_ADAMW_STAND_IN_DEVICES", "2"}}, usable(), -1);
}

TEST_F(WhyUnavailable, NoDeviceCode) { expect("no device code is usable: the package carries none", {}, ""); }

TEST_F(WhyUnavailable, TruncatedDeviceCode) {
  expect("no device code is usable: it is truncated", {}, fatbin(kContent.size() + 1, kContent));
  expect("no device code is usable: it is truncated", {}, "short");
}

TEST_F(WhyUnavailable, DeviceCodeThatTheDriverRefuses) {
  expect(
      "no device code is usable: CUDA failed in cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU \\(no kernel image is "
      "available for execution on the device\\)",
      {{"FUSED_ADAMW_STAND_IN_MODULE", "209"}}, usable());
  expect(
      "no device code is usable: CUDA failed in cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE \\(device kernel image is "
      "invalid\\)",
      {}, "this is not device code, it is only some text");
}

TEST_F(WhyUnavailable, DeviceCodeOfTheBuildIsAccepted) {
  const std::string image = read_file(DEVICE_CODE);
  if (image.empty()) GTEST_SKIP() << "npm run build:cuda makes " DEVICE_CODE;
  expect("usable", {}, image);
  expect("no device code is usable: .*", {}, image.substr(0, image.size() / 2));
}

class DeviceInUse : public WhyUnavailable {};

TEST_F(DeviceInUse, IsOneThatIsReadyAndNoOtherIsMadeReady) {
  Environment environment{{kChild, "1"}, {"ASAN_OPTIONS", kWithoutLeaks}, {"FUSED_ADAMW_STAND_IN_DEVICES", "2"}};
  const auto print = [] {
    set_device_code(usable());
    const bool is_none = Device::in_use() == nullptr;
    Device::get(1);
    const auto memory = Device::in_use()->allocate_pinned(100);
    std::fprintf(stderr, "%d, then %d of %llu contexts", is_none, Device::in_use()->ordinal(),
                 testing::count("cuDevicePrimaryCtxRetain"));
    std::exit(0);
  };
  EXPECT_EXIT(print(), ::testing::ExitedWithCode(0), "1, then 1 of 1 contexts");
}

class WithoutDriver : public ::testing::Test {};

TEST_F(WithoutDriver, ReportsTheReasonOfTheLoader) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Environment environment{{"ASAN_OPTIONS", kWithoutLeaks}};
  environment.set("LD_LIBRARY_PATH", nullptr);
  const auto print = [] {
    try {
      driver();
      std::fprintf(stderr, "there is one");
    } catch (const Unavailable& error) {
      std::fprintf(stderr, "%s", error.what());
    }
    std::exit(0);
  };
  EXPECT_EXIT(print(), ::testing::ExitedWithCode(0), "there is no CUDA driver: libcuda.so.1: .*|there is one");
}

}  // namespace
}  // namespace fused_adamw::cuda

/// Uses the device code of the build; the stand-in also accepts what only has its mark.
int main(int argc, char** argv) {
  namespace cuda = fused_adamw::cuda;
  ::testing::InitGoogleTest(&argc, argv);
  std::string image = cuda::read_file(DEVICE_CODE);
  if (image.empty() && cuda::testing::is_stand_in()) image = cuda::usable();
  cuda::set_device_code(image);
  return RUN_ALL_TESTS();
}
