/* Somebody else's library, with functions that are called like the driver's, and one that only begins so. */
#define EXPORT __attribute__((visibility("default")))

EXPORT int cuMemAlloc_v2(void);
EXPORT int nvmlInit_v2(void);
EXPORT int curl_version_number(void);

int cuMemAlloc_v2(void)
{
        return 4242;
}

int nvmlInit_v2(void)
{
        return 4243;
}

int curl_version_number(void)
{
        return 4244;
}
