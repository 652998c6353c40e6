{
  'variables': {
    'openssl_fips': '',
  },
  'targets': [
    {
      'target_name': 'fused_adamw',
      'sources': [
        'native/node/abi.cc',
        'native/node/addon.cc',
        'native/node/copies.cc',
        'native/node/cpu-exports.cc',
        'native/node/cuda-exports.cc',
        'native/node/cuda-steps.cc',
        'native/node/device-memory-object.cc',
        'native/node/dlpack.cc',
        'native/node/host-memory.cc',
        'native/node/host-steps.cc',
        'native/node/tensor-list-object.cc',
        'native/core/tensor-list.cc',
        'native/cpu/isa/kernels.cc',
        'native/cpu/openmp.cc',
        'native/cpu/processors.cc',
        'native/cpu/step.cc',
        'native/cpu/thread-pool.cc',
        'native/cpu/thread-start.cc',
        'native/cpu/threads.cc',
        'native/cuda/context.cc',
        'native/cuda/device.cc',
        'native/cuda/driver.cc',
        'native/cuda/event.cc',
        'native/cuda/memory.cc',
        'native/cuda/module.cc',
        'native/cuda/step.cc',
        'native/cuda/transfer.cc',
      ],
      'dependencies': ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all"],
      'defines': ['FUSED_ADAMW_BUILD="node-gyp"', 'NAPI_VERSION=9'],
      'cflags!': ['-fno-omit-frame-pointer'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fno-rtti', '-O2'],
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
          # The threads of a step outlive the worker that opened the addon.
          'ldflags': ['-pthread', '-Wl,-z,nodelete'],
          'libraries': ['-ldl'],
        }],
        ['OS=="mac"', {
          'xcode_settings': {
            'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
            'MACOSX_DEPLOYMENT_TARGET': '11.0',
            'OTHER_CPLUSPLUSFLAGS': ['-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math'],
          },
        }],
      ],
    },
  ],
}
