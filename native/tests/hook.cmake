# Hooking and memory: programs that know nothing of the library, run with it preloaded.
labspawner_test(hook_lookup hook_lookup.c)             # dlsym and dlvsym, one question per command
labspawner_test(hook_plain hook_plain.c)               # a program that never touches CUDA
find_package(OpenMP QUIET COMPONENTS C)
if(OpenMP_C_FOUND AND NOT LABSPAWNER_SANITIZE)
  labspawner_test(hook_openmp hook_openmp.c)
  target_link_libraries(hook_openmp PRIVATE OpenMP::OpenMP_C)
endif()

# Libraries that the programs open: another one with functions of the driver's names, one that wraps a function of the C
# library by RTLD_NEXT.
add_library(hook_other MODULE hook_other.c)
target_link_libraries(hook_other PRIVATE labspawner_flags)
add_library(hook_wrapper MODULE hook_wrapper.c)
target_link_libraries(hook_wrapper PRIVATE labspawner_flags)

# Programs that are linked with the driver: the stub's, found at run time by LD_LIBRARY_PATH as everywhere.
labspawner_test(hook_storm hook_storm.c)
target_link_libraries(hook_storm PRIVATE stub_cuda)
labspawner_test(hook_threads hook_threads.c)
target_link_libraries(hook_threads PRIVATE stub_cuda)
