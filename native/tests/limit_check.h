/* Small test programs of cases: `program case` runs one, exits 1 with a line on stderr where a claim is false. */
#ifndef LIMIT_CHECK_H
#define LIMIT_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(claim)                                                                            \
        do {                                                                                    \
                if (!(claim)) {                                                                 \
                        fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #claim);   \
                        exit(1);                                                                \
                }                                                                               \
        } while (0)

#define CHECK_BETWEEN(value, least, most)                                                       \
        do {                                                                                    \
                double value_ = (double)(value), least_ = (double)(least), most_ = (double)(most); \
                if (value_ < least_ || value_ > most_) {                                        \
                        fprintf(stderr, "%s:%d: %s is %g, not between %g and %g\n", __FILE__, __LINE__, #value, value_, \
                                least_, most_);                                                 \
                        exit(1);                                                                \
                }                                                                               \
        } while (0)

struct limit_case {
        const char *name;
        void (*run)(void);
};

static inline int limit_run(const struct limit_case *cases, int argc, char **argv)
{
        for (; cases->name; cases++)
                if (argc == 2 && strcmp(argv[1], cases->name) == 0) {
                        cases->run();
                        return 0;
                }
        fprintf(stderr, "%s: no such case\n", argv[0]);
        return 2;
}

#endif
