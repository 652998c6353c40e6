#include "abi.h"

#include <string>

#include "../core/dtype-configs.h"
#include "../core/gradient-norm.h"
#include "../core/scalars.h"

namespace fused_adamw {
namespace {

/// Changes with whatever the names do not show, such as the arguments of a function.
constexpr int kVersion = 7;

template <typename Names>
Napi::Array to_array(Napi::Env env, const Names& names) {
  Napi::Array array = Napi::Array::New(env);
  for (const auto& name : names) array[array.Length()] = name;
  return array;
}

}  // namespace

Napi::Object make_abi(Napi::Env env) {
  Napi::Array roles = Napi::Array::New(env), configs = Napi::Array::New(env);
  for (const Role role : kEveryRole)
    roles[roles.Length()] = std::string(kRoleNames[static_cast<int>(role)]) + (is_written(role) ? " written" : " read");
  for (const DTypeConfigInfo& config : kDTypeConfigInfo) {
    std::string text = std::string(config.name) + ":";
    for (const Role role : kEveryRole) text += std::string(" ") + config.dtypes[role].name;
    configs[configs.Length()] = text;
  }
  Napi::Array accumulations = Napi::Array::New(env);
#define FUSED_ADAMW_ADD(Into, Grad) \
  accumulations[accumulations.Length()] = std::string(kDTypeInfo<Into>.name) + " " + kDTypeInfo<Grad>.name;
  FUSED_ADAMW_ACCUMULATIONS(FUSED_ADAMW_ADD)
#undef FUSED_ADAMW_ADD
  Napi::Object abi = Napi::Object::New(env);
  abi["version"] = kVersion;
  abi["rules"] = to_array(env, kRuleNames);
  abi["roles"] = roles;
  abi["dtypeConfigs"] = configs;
  abi["accumulations"] = accumulations;
  abi["stepScalars"] = to_array(env, kStepScalarNames);
  abi["groupScalars"] = to_array(env, kGroupScalarNames);
  abi["decisionScalars"] = to_array(env, kDecisionScalarNames);
  return abi;
}

}  // namespace fused_adamw
