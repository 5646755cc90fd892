/* Keeps vgpu a library while its modules land. */
extern const int slice_hooks_are_here;
const int slice_hooks_are_here = 1;
