// Roles and dtype configurations, generated from roles.def and dtype-configs.def.
#pragma once

#include <tuple>

#include "dtypes.h"

namespace fused_adamw {

/// What an array is to a tensor. The order is part of the interface with
/// lib/backend/abi.ts, which compares the names when it loads the addon.
enum class Role : uint8_t {
#define ROLE(name, access) name,
#include "roles.def"
};

inline constexpr const char* kRoleNames[] = {
#define ROLE(name, access) #name,
#include "roles.def"
};
inline constexpr int kRoles = sizeof kRoleNames / sizeof *kRoleNames;

enum class RoleAccess { read, written };

/// Whether a step writes to the arrays of a role.
constexpr bool is_written(Role role) {
  constexpr RoleAccess access[] = {
#define ROLE(name, access) RoleAccess::access,
#include "roles.def"
  };
  return access[static_cast<int>(role)] == RoleAccess::written;
}

/// Every role, to iterate over.
inline constexpr Role kEveryRole[] = {
#define ROLE(name, access) Role::name,
#include "roles.def"
};

/// One value for each role.
template <typename T>
struct ByRole {
  T values[kRoles];

  ADAMW_INLINE constexpr T& operator[](Role role) { return values[static_cast<int>(role)]; }
  ADAMW_INLINE constexpr const T& operator[](Role role) const { return values[static_cast<int>(role)]; }
};

/// Stands in dtype-configs.def for an array that tensors of a configuration do not have.
struct None {};
template <>
inline constexpr DTypeInfo kDTypeInfo<None> = {"none", 0};

/// The dtypes of a tensor's arrays: which kernel updates it. The order is part
/// of the interface with lib/backend/abi.ts, as that of the roles.
enum class DTypeConfig : uint8_t {
#define DTYPE_CONFIG(identifier, ...) identifier,
#include "dtype-configs.def"
};

template <DTypeConfig config>
struct RoleTypes;
#define DTYPE_CONFIG(identifier, name, ...)                                                \
  template <>                                                                              \
  struct RoleTypes<DTypeConfig::identifier> {                                              \
    using Types = std::tuple<__VA_ARGS__>;                                                 \
    static_assert(std::tuple_size_v<Types> == kRoles,                                      \
                  "dtype-configs.def needs a type for each role in the row " #identifier); \
  };
#include "dtype-configs.def"

/// The C++ type of the elements of a role's array; None where there is no such array.
template <DTypeConfig config, Role role>
using RoleType = std::tuple_element_t<static_cast<int>(role), typename RoleTypes<config>::Types>;

template <DTypeConfig config, Role role>
inline constexpr bool kHasRole = !std::is_same_v<RoleType<config, role>, None>;

/// The type in which a configuration's elements are updated.
template <DTypeConfig config>
using ArithmeticType = Arithmetic<RoleType<config, Role::weight>>;

struct DTypeConfigInfo {
  const char* identifier;  // in the names of kernels
  const char* name;
  ByRole<DTypeInfo> dtypes;
  bool is_f64;  // updated in float64
};

template <typename... Types>
constexpr ByRole<DTypeInfo> dtypes_of() {
  return {{kDTypeInfo<Types>...}};
}

inline constexpr DTypeConfigInfo kDTypeConfigInfo[] = {
#define DTYPE_CONFIG(identifier, name, ...) \
  {#identifier, name, dtypes_of<__VA_ARGS__>(), std::is_same_v<ArithmeticType<DTypeConfig::identifier>, double>},
#include "dtype-configs.def"
};
inline constexpr int kDTypeConfigs = sizeof kDTypeConfigInfo / sizeof *kDTypeConfigInfo;

constexpr const DTypeConfigInfo& info(DTypeConfig config) { return kDTypeConfigInfo[static_cast<int>(config)]; }

/// Bytes of an element of a role's array; 0 where there is no such array.
constexpr size_t role_bytes(DTypeConfig config, Role role) { return info(config).dtypes[role].bytes; }

/// A device has one kernel for each rule and configuration, numbered by this.
inline constexpr int kKernels = kRules * kDTypeConfigs;
constexpr int kernel_index(Rule rule, DTypeConfig config) {
  return static_cast<int>(rule) * kDTypeConfigs + static_cast<int>(config);
}
constexpr Rule rule_of_kernel(int index) { return static_cast<Rule>(index / kDTypeConfigs); }
constexpr DTypeConfig config_of_kernel(int index) { return static_cast<DTypeConfig>(index % kDTypeConfigs); }

}  // namespace fused_adamw
