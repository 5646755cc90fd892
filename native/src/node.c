#include "node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES ((off_t)sizeof(struct slice_node_line))
#define READ_LINES 8
#define WANTED_NS UINT64_C(100000000)
#define MOST_SHARERS 16
#define JOIN_NS UINT64_C(20000)                      /* batches that follow one another so closely are one stretch */
#define LONGEST_NS UINT64_C(10000000000)            /* a line is believed no longer than this, whatever it expects */

static off_t offset_of(uint32_t index)
{
        return (off_t)sizeof(struct slice_node_header) + (off_t)index * LINE_BYTES;
}

uint64_t slice_node_hash(const char *name)
{
        uint64_t hash = UINT64_C(0xcbf29ce484222325);

        for (; *name; name++)
                hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
        return hash ? hash : 1;
}

static int try_lock(int fd, off_t at, short type)
{
        struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

        return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* A file of an earlier version, which nobody uses any more, is emptied. Whoever uses it has a line of it locked. */
static void retire(int fd)
{
        struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        struct slice_node_header found;

        if (pread(fd, &found, sizeof(found), 0) != (ssize_t)sizeof(found) || found.magic != SLICE_NODE_MAGIC ||
            fcntl(fd, F_OFD_SETLK, &all) < 0)
                return;
        /* Another one may have done it meanwhile, and grown the file anew. */
        struct stat status;
        if (fstat(fd, &status) == 0 && status.st_size != offset_of(SLICE_NODE_LINES))
                (void)!ftruncate(fd, 0);
        all.l_type = F_UNLCK;
        fcntl(fd, F_OFD_SETLK, &all);
}

/* An empty file gets its length, and any its header, which is always the same: damage there ends with the next process. */
static int make_ready(int fd)
{
        struct slice_node_header header = { .magic = SLICE_NODE_MAGIC, .version = 2, .line_count = SLICE_NODE_LINES,
                                            .line_bytes = sizeof(struct slice_node_line) };
        struct stat status;

        if (fstat(fd, &status) < 0)
                return -errno;
        if (S_ISREG(status.st_mode) && status.st_size != 0 && status.st_size != offset_of(SLICE_NODE_LINES)) {
                retire(fd);
                if (fstat(fd, &status) < 0)
                        return -errno;
        }
        if (!S_ISREG(status.st_mode) || (status.st_size != 0 && status.st_size != offset_of(SLICE_NODE_LINES)))
                return -EINVAL;
        /* Two that do this at once write the same. */
        if (status.st_size == 0 && ftruncate(fd, offset_of(SLICE_NODE_LINES)) < 0)
                return -errno;
        return pwrite(fd, &header, sizeof(header), 0) == (ssize_t)sizeof(header) ? 0 : -EIO;
}

int slice_node_open(struct slice_node *ret, const char *path)
{
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

        if (fd < 0)
                return -errno;
        int r = make_ready(fd);
        if (r < 0) {
                close(fd);
                return r;
        }
        *ret = (struct slice_node){ .fd = fd, .high = SLICE_NODE_LINES };        /* the first look is at all of it */
        return 0;
}

void slice_node_close(struct slice_node *node)
{
        if (node->fd >= 0)
                close(node->fd);
        node->fd = -1;
}

int slice_node_join(struct slice_node *node, uint32_t *ret_index)
{
        static const struct slice_node_line empty;

        for (uint32_t i = 0; i < SLICE_NODE_LINES; i++) {
                int r = try_lock(node->fd, offset_of(i), F_WRLCK);
                if (r == -EAGAIN || r == -EACCES)
                        continue;
                if (r < 0)
                        return r;
                if (pwrite(node->fd, &empty, sizeof(empty), offset_of(i)) != LINE_BYTES) {
                        try_lock(node->fd, offset_of(i), F_UNLCK);
                        return -EIO;
                }
                *ret_index = i;
                return 0;
        }
        return -ENOSPC;
}

int slice_node_publish(struct slice_node *node, uint32_t index, const struct slice_node_line *line)
{
        return pwrite(node->fd, line, sizeof(*line), offset_of(index)) == LINE_BYTES ? 0 : -EIO;
}

static bool is_recent(uint64_t at_ns, uint64_t now_ns, uint64_t within_ns)
{
        /* Clocks of two processors may differ by a little; a line from the future is one from before a restart. */
        return at_ns != 0 && (at_ns <= now_ns ? now_ns - at_ns < within_ns : at_ns - now_ns < UINT64_C(1000000));
}

/* Whether the line's owner is at work, or was a moment ago. */
static bool is_active(const struct slice_node_line *line, uint64_t now_ns)
{
        if (is_recent(line->used_ns, now_ns, SLICE_NODE_ACTIVE_NS))
                return true;
        /* A long kernel: its owner waits for it and writes nothing. */
        return line->open_ns != 0 && now_ns < line->expect_ns && is_recent(line->used_ns, now_ns, LONGEST_NS);
}

size_t slice_node_read(struct slice_node *node, uint32_t own_index, uint64_t uuid_hash, uint64_t now_ns,
                       struct slice_node_line *ret, size_t room)
{
        struct slice_node_line lines[READ_LINES];
        size_t found = 0;
        uint32_t high = own_index + 1;

        /* Lines are taken lowest first: behind the highest one in use, one more chunk is read for newcomers. */
        for (uint32_t from = 0; from < SLICE_NODE_LINES; from += READ_LINES) {
                if (from > own_index && from >= node->high + READ_LINES)
                        break;
                ssize_t bytes = pread(node->fd, lines, sizeof(lines), offset_of(from));
                size_t count = bytes > 0 ? (size_t)bytes / sizeof(lines[0]) : 0;
                for (size_t i = 0; i < count; i++) {
                        const struct slice_node_line *line = &lines[i];
                        if (line->used_ns != 0)
                                high = from + (uint32_t)i + 1 > high ? from + (uint32_t)i + 1 : high;
                        if (from + i == own_index || line->uuid_hash != uuid_hash || found == room ||
                            !is_active(line, now_ns))
                                continue;
                        ret[found++] = *line;
                }
                if (count < READ_LINES)
                        break;
        }
        node->high = high;
        return found;
}

/* What a line says of one instant within a stretch. */
struct then {
        bool worked;                             /* its owner had work on the device: */
        bool shared;                             /* work that goes on beyond the stretch, so what it cost says little of it; */
        double part;                             /* or work that lies within it, and had this part of the device */
};

/* The next instant at which that may change goes to *ret_until, where it is sooner. */
static struct then look_back(const struct slice_node_line *line, struct slice_span within, uint64_t at_ns, uint64_t now_ns,
                             uint64_t *ret_until)
{
        struct then then = { 0 };
        uint64_t until = *ret_until;

        for (size_t i = 0; i < SLICE_NODE_SPANS; i++) {
                struct slice_span span = line->spans[i];
                if (span.from_ns <= at_ns && at_ns < span.to_ns) {
                        then.worked = true;
                        if (span.from_ns >= within.from_ns && span.to_ns <= within.to_ns)
                                then.part += (double)line->cost_ns[i] / (double)(span.to_ns - span.from_ns);
                        else
                                then.shared = true;
                        until = span.to_ns < until ? span.to_ns : until;
                } else if (span.from_ns > at_ns && span.from_ns < span.to_ns && span.from_ns < until) {
                        until = span.from_ns;
                }
        }
        /* What was out when the line was written still is, while its owner is active. */
        uint64_t open_to = is_active(line, now_ns) ? UINT64_MAX : line->used_ns;
        if (!then.worked && line->open_ns != 0 && line->open_ns <= at_ns && at_ns < open_to) {
                then.worked = then.shared = true;
                until = open_to < until ? open_to : until;
        } else if (line->open_ns > at_ns && line->open_ns < open_to && line->open_ns < until) {
                until = line->open_ns;
        }
        *ret_until = until;
        return then;
}

uint64_t slice_node_own_time(struct slice_span span, const struct slice_node_line *own_line,
                             const struct slice_node_line *others, size_t count, uint64_t now_ns)
{
        double own = 0, uncharged = 0;
        uint64_t at = span.from_ns;

        /* A handful of spans per line bounds the steps; what a torn or hostile line adds is one step per edge. */
        while (at < span.to_ns) {
                uint64_t until = span.to_ns;
                double left = 1;
                unsigned sharers = 1;
                bool is_charged = own_line && look_back(own_line, span, at, now_ns, &until).worked;
                for (size_t i = 0; i < count && !is_charged; i++) {
                        struct then then = look_back(&others[i], span, at, now_ns, &until);
                        left -= then.part;
                        sharers += then.shared;
                }
                if (!is_charged) {
                        uncharged += (double)(until - at);
                        own += left > 0 ? (double)(until - at) * left / sharers : 0;
                }
                at = until;
        }
        return (uint64_t)(own > uncharged / MOST_SHARERS ? own : uncharged / MOST_SHARERS);
}

static uint32_t word(uint64_t ns)
{
        return ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

void slice_node_add_span(struct slice_node_line *line, struct slice_span span, uint64_t cost_ns)
{
        uint32_t at = (line->next_span + SLICE_NODE_SPANS - 1) % SLICE_NODE_SPANS;
        struct slice_span *last = &line->spans[at];

        if (span.to_ns <= span.from_ns)
                return;
        if (last->to_ns != 0 && span.from_ns >= last->from_ns && span.from_ns <= last->to_ns + JOIN_NS) {
                last->to_ns = span.to_ns > last->to_ns ? span.to_ns : last->to_ns;
                line->cost_ns[at] = word(line->cost_ns[at] + cost_ns);
                return;
        }
        at = line->next_span % SLICE_NODE_SPANS;
        line->spans[at] = span;
        line->cost_ns[at] = word(cost_ns);
        line->next_span = (at + 1) % SLICE_NODE_SPANS;
}

static struct slice_claim claim_of(const struct slice_node_line *line, uint64_t now_ns)
{
        struct slice_claim claim = {
                .share_ppm = line->share_ppm < SLICE_WHOLE ? line->share_ppm : SLICE_WHOLE,
                .weight = line->weight < 10000 ? line->weight : 10000,
                .use_ppm = line->use_ppm < SLICE_WHOLE ? line->use_ppm : SLICE_WHOLE,
                .priority = line->priority ? 1 : 0,
        };

        claim.wants = is_recent(line->wanted_ns, now_ns, WANTED_NS) || claim.use_ppm >= claim.share_ppm / 10 * 9;
        return claim;
}

size_t slice_node_claims(const struct slice_node_line *own, const struct slice_node_line *others, size_t count,
                         uint64_t now_ns, struct slice_claim *ret, size_t room)
{
        size_t found = 0;

        if (room == 0)
                return 0;
        ret[found++] = claim_of(own, now_ns);
        for (size_t i = 0; i < count && found < room; i++) {
                bool is_latest = others[i].slice_hash != own->slice_hash;
                for (size_t j = 0; j < count && is_latest; j++)
                        if (others[j].slice_hash == others[i].slice_hash &&
                            (others[j].used_ns > others[i].used_ns || (others[j].used_ns == others[i].used_ns && j < i)))
                                is_latest = false;
                if (is_latest)
                        ret[found++] = claim_of(&others[i], now_ns);
        }
        return found;
}
