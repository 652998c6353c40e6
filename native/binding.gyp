{
  'variables': {
    'openssl_fips': '',
  },
  'targets': [
    {
      'target_name': 'fused_adamw',
      'sources': [
        'node/abi.cc',
        'node/addon.cc',
        'node/background-jobs.cc',
        'node/copies.cc',
        'node/cpu-exports.cc',
        'node/cuda-exports.cc',
        'node/cuda-steps.cc',
        'node/device-memory-object.cc',
        'node/dlpack.cc',
        'node/gradients.cc',
        'node/host-memory.cc',
        'node/host-steps.cc',
        'node/tensor-list-object.cc',
        'platform/files.cc',
        'platform/posix.cc',
        'core/tensor-list.cc',
        'cpu/background.cc',
        'cpu/gradients.cc',
        'cpu/isa/kernels.cc',
        'cpu/openmp.cc',
        'cpu/processors.cc',
        'cpu/step.cc',
        'cpu/thread-pool.cc',
        'cpu/thread-start.cc',
        'cpu/threads.cc',
        'cuda/accumulate.cc',
        'cuda/context.cc',
        'cuda/device.cc',
        'cuda/driver.cc',
        'cuda/event.cc',
        'cuda/memory.cc',
        'cuda/module.cc',
        'cuda/square-sums.cc',
        'cuda/staged-buffer.cc',
        'cuda/step.cc',
        'cuda/transfer.cc',
      ],
      # node-addon-api's, which scripts/build.mjs copies there: the package carries them.
      'include_dirs': ['../dist/include'],
      'defines': [
        'FUSED_ADAMW_BUILD="node-gyp"', 'NAPI_VERSION=9', 'NODE_ADDON_API_CPP_EXCEPTIONS',
        'NODE_ADDON_API_CPP_EXCEPTIONS_ALL',
      ],
      'cflags!': ['-fno-omit-frame-pointer'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fno-rtti', '-fno-exceptions', '-O2'],
      # The contract on bits: no contraction to FMA, no fast-math.
      'cflags_cc': [
        '-std=c++17', '-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math',
        '-fvisibility=hidden', '-Wall', '-Wextra',
      ],
      # npm run build:debug makes the other one.
      'configurations': {
        'Release': {
          'cflags_cc': ['-O3'],
          'xcode_settings': {'GCC_OPTIMIZATION_LEVEL': '3'},
        },
        'Debug': {
          'defines': ['_GLIBCXX_ASSERTIONS'],
          'cflags_cc': ['-O0', '-g'],
          'xcode_settings': {'GCC_OPTIMIZATION_LEVEL': '0'},
        },
      },
      'conditions': [
        ['OS=="linux"', {
          'cflags_cc': ['-pthread'],
          'ldflags': ['-pthread'],
          'libraries': ['-ldl'],
        }],
        ['OS=="mac"', {
          'xcode_settings': {
            'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
            'GCC_ENABLE_CPP_EXCEPTIONS': 'YES',
            'MACOSX_DEPLOYMENT_TARGET': '11.0',
            'OTHER_CPLUSPLUSFLAGS': ['-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math'],
          },
        }],
      ],
    },
  ],
}
