/* Which labspawner this library was built from: read from the file by labspawner/gpu/libvgpu.py, by nobody at run time. */
__attribute__((used, visibility("hidden"))) const char slice_version[] = "labspawner-libvgpu " LABSPAWNER_VERSION;
