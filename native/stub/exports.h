/* The stub's symbols by name. */
#ifndef STUB_EXPORTS_H
#define STUB_EXPORTS_H

/* The address that cuGetProcAddress gives for symbol + suffix ("", "_ptsz", "_ptds"), NULL: there is none. */
void *stub_symbol(const char *symbol, const char *suffix);

#endif
