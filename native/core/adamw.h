// The AdamW update of one element, the only copy of the rule in native code.
//
// The order of the operations is the contract: every operation below is rounded
// as written (IEEE-754, round to nearest even, no contraction to FMA), so that
// every instruction set, thread count and device gives the same bits.
//
// Rule::mxnet    mxnet.optimizer.AdamW's fused CPU kernel (adamw_update)
// Rule::coupled  the same with the decay also in the gradient, as MXNet's page
//                prints for correct_bias=False
// Rule::pytorch  torch.optim.AdamW, whose second moment does not cancel
//
// After Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019); AMSGrad after
// Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (2018), as torch.optim.AdamW has it.
#pragma once

#include <cmath>
#include <type_traits>

#if defined(__FAST_MATH__)
#error "fused-adamw needs IEEE arithmetic: compile without -ffast-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "fused-adamw needs each operation rounded to its own type (FLT_EVAL_METHOD 0)"
#endif

#if defined(__CUDACC__)
#define ADAMW_INLINE __host__ __device__ __forceinline__
#else
#define ADAMW_INLINE __attribute__((always_inline)) inline
#endif

namespace fused_adamw {

// X(rule, argument) for each rule; the argument is passed on. The order is part of the
// interface with lib/backend/abi.ts, which compares the names when it loads the addon.
#define FUSED_ADAMW_RULES(X, argument) \
  X(mxnet, argument)                   \
  X(coupled, argument)                 \
  X(pytorch, argument)

#define FUSED_ADAMW_ENUMERATOR(rule, _) rule,
#define FUSED_ADAMW_NAME(rule, _) #rule,
enum class Rule { FUSED_ADAMW_RULES(FUSED_ADAMW_ENUMERATOR, ) };
inline constexpr const char* kRuleNames[] = {FUSED_ADAMW_RULES(FUSED_ADAMW_NAME, )};
inline constexpr int kRules = sizeof kRuleNames / sizeof *kRuleNames;
#undef FUSED_ADAMW_ENUMERATOR
#undef FUSED_ADAMW_NAME

/// The scalars of one step for one group of tensors, each rounded once from
/// double to the arithmetic type T (float or double).
template <typename T>
struct Scalars {
  T rescale;          // multiplies the gradient
  T clip;             // gradients are clipped to [-clip, clip]; infinity: no clipping
  T beta1, beta2;     // decay rates of the moments
  T lerp;             // pytorch only: see lerp_factor
  T one_minus_beta2;  // pytorch only
  T eta;              // mxnet: learning rate with bias correction; pytorch: step size
  T lr;               // mxnet: a further factor of the moments' quotient
  T wd;               // weight decay
  T epsilon;          // added to the denominator, so that it is not zero
  T decay;            // pytorch only: 1 - learning rate * weight decay
  T root;             // pytorch only: sqrt(1 - beta2**t)
};

/// The factor of g - m in torch.lerp(m, g, 1 - beta1). If the weight 1 - beta1 is below
/// one half, lerp starts from m and the factor is positive; otherwise it goes back from g
/// and the factor is not, so that beta1 = 0 gives g exactly (ATen/native/Lerp.h).
template <typename T>
inline T lerp_factor(double beta1) {
  const T weight = static_cast<T>(1 - beta1);
  return weight < T(0.5) ? weight : weight - 1;
}

/// The value in [-bound, bound] that is nearest to x; NaN is passed through.
template <typename T>
ADAMW_INLINE T clip(T x, T bound) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, float>) {
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(bound));
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(-bound));
    return x;
  }
#endif
  return x > bound ? bound : (x < -bound ? -bound : x);
}

/// What an element is moved by, but for the factors that are not in `numerator`.
template <Rule rule, typename T>
ADAMW_INLINE T quotient(T numerator, T v, const Scalars<T>& s) {
  using std::sqrt;
#if defined(__CUDA_ARCH__)
  // A GPU takes far longer for the root and the quotient of zero than for others, and many elements have not seen any
  // gradient yet (the rows of an embedding). Their quotient is that zero. (float64 has no register left for it.)
  if constexpr (std::is_same_v<T, float>)
    if (numerator == 0 && v >= 0 && s.epsilon > 0) return numerator;
#endif
  if constexpr (rule == Rule::pytorch) return numerator / (sqrt(v) / s.root + s.epsilon);
  return numerator / (sqrt(v) + s.epsilon);
}

/// The variance of the denominator: v, or with AMSGrad the greatest so far, where a NaN is the greatest.
template <bool amsgrad, typename T>
ADAMW_INLINE T denominator_variance(T v, [[maybe_unused]] T& maximum) {
  if constexpr (amsgrad)
    return maximum = v <= maximum ? maximum : v;
  else
    return v;
}

/// Updates weight w, mean m, variance v and, with AMSGrad alone, the greatest variance in place by the gradient g.
template <Rule rule, bool amsgrad, typename T>
ADAMW_INLINE void adamw(T& w, T g, T& m, T& v, T& maximum, const Scalars<T>& s) {
  g = s.rescale * g;
  g = clip(g, s.clip);
  if constexpr (rule == Rule::pytorch) {
    w = w * s.decay;
    m = (s.lerp > 0 ? m : g) + s.lerp * (g - m);  // the same choice for all elements of a step
    v = s.beta2 * v + s.one_minus_beta2 * g * g;
    w = w - quotient<rule>(s.eta * m, denominator_variance<amsgrad>(v, maximum), s);
  } else {
    if constexpr (rule == Rule::coupled) g = g + s.wd * w;
    m = s.beta1 * (m - g) + g;
    const T q = g * g;
    v = s.beta2 * (v - q) + q;
    w = w - s.eta * (quotient<rule>(s.lr * m, denominator_variance<amsgrad>(v, maximum), s) + s.wd * w);
  }
}

/// Without AMSGrad.
template <Rule rule, typename T>
ADAMW_INLINE void adamw(T& w, T g, T& m, T& v, const Scalars<T>& s) {
  adamw<rule, false>(w, g, m, v, v, s);
}

/// Calls visit(std::integral_constant<Rule, rule>) for a rule that is known only at run time.
template <typename Visit>
auto with_rule(Rule rule, const Visit& visit) {
#define FUSED_ADAMW_CASE(each, _) \
  if (rule == Rule::each) return visit(std::integral_constant<Rule, Rule::each>{});
  FUSED_ADAMW_RULES(FUSED_ADAMW_CASE, )
#undef FUSED_ADAMW_CASE
  __builtin_unreachable();
}

}  // namespace fused_adamw
