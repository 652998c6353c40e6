// A libcuda.so.1 that lacks most of the driver's functions.
extern "C" __attribute__((visibility("default"))) int cuInit(unsigned) { return 0; }
