/* Keeps vgpu_core a library while its modules land. */
extern const int slice_core_is_here;
const int slice_core_is_here = 1;
