// DLPack, the exchange of tensors between libraries: the layout of its header
// (dlpack.h 1.x), and tensors of others while they are in use here.
#pragma once

#include <memory>

#include "environment.h"

namespace fused_adamw::dlpack {

struct Device {
  int32_t type;
  int32_t id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t dimensions;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: contiguous
  uint64_t byte_offset;
};

// DLDeviceType
inline constexpr int32_t kCpu = 1;
inline constexpr int32_t kCuda = 2;

/// DLManagedTensor, of DLPack before 1.0
struct Unversioned {
  Tensor tensor;
  void* context;
  void (*deleter)(Unversioned*);
};
/// DLManagedTensorVersioned
struct Versioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Versioned*);
  uint64_t flags;
  Tensor tensor;
};
inline constexpr uint64_t kReadOnly = 1;

/// A tensor of another library, whose deleter is called once, at the end, unless it was given back.
class Managed {
 public:
  /// Throws std::invalid_argument where the process uses it already.
  Managed(void* tensor, bool is_versioned);
  ~Managed();
  Managed(const Managed&) = delete;
  Managed& operator=(const Managed&) = delete;

  void give_back();
  static bool is_in_use(const void* tensor);
  static const Tensor& tensor_of(void* tensor, bool is_versioned);
  void* elements() const;

 private:
  void* tensor_;  // null once it was given back
  bool is_versioned_;
};

/// What a hold (dlpack.cc) of JavaScript holds; null for any other value.
std::shared_ptr<Managed> held(Napi::Env env, const Napi::Value& value);

}  // namespace fused_adamw::dlpack
