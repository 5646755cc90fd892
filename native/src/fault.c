#include "fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int slice_fault(struct slice_fault *ret, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(ret->text, sizeof(ret->text), format, arguments);
        va_end(arguments);
        return -EINVAL;
}

void slice_show(const char *text, size_t length, char *ret, size_t room)
{
        size_t shown = length < room ? length : room - 1;

        for (size_t i = 0; i < shown; i++)
                ret[i] = (char)(text[i] >= ' ' && text[i] <= '~' ? text[i] : '?');
        ret[shown] = '\0';
        if (shown < length && room > 4)
                memcpy(ret + room - 4, "...", 4);
}

int slice_decimal(const char *digits, size_t length, uint64_t most, uint64_t *ret)
{
        uint64_t value = 0;

        for (size_t i = 0; i < length; i++) {
                uint64_t digit = (uint64_t)(digits[i] - '0');

                if (value > (most - digit) / 10)
                        return -EINVAL;
                value = value * 10 + digit;
        }
        *ret = value;
        return 0;
}
