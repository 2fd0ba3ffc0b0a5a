/* Quicksort through a comparison function, as library sorts are: unpredictable branches and indirect calls.
 * Known: the result is in order, and is the same multiset of numbers (sum and exclusive or). */
#include "program.h"

enum { COUNT = 600000, SHORT = 12 };

typedef bool less_than(uint64_t, uint64_t);

static bool ascending(uint64_t a, uint64_t b) { return a < b; }
static bool by_low_half(uint64_t a, uint64_t b)
{
    return (uint32_t)a != (uint32_t)b ? (uint32_t)a < (uint32_t)b : a < b;
}

static uint64_t numbers[COUNT];

static inline void swap(uint64_t *a, uint64_t *b)
{
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

static void insertion_sort(uint64_t *first, size_t count, less_than *less)
{
    for (size_t i = 1; i < count; i++) {
        uint64_t value = first[i];
        size_t at = i;
        for (; at > 0 && less(value, first[at - 1]); at--)
            first[at] = first[at - 1];
        first[at] = value;
    }
}

static NOINLINE void sort(uint64_t *first, size_t count, less_than *less)
{
    while (count > SHORT) {
        uint64_t *middle = first + count / 2, *last = first + count - 1;
        if (less(*middle, *first)) swap(middle, first);
        if (less(*last, *middle)) swap(last, middle);
        if (less(*middle, *first)) swap(middle, first);
        uint64_t pivot = *middle;
        size_t low = 0, high = count - 1;
        for (;;) { /* the median of three stops both scans */
            while (less(first[low], pivot)) low++;
            while (less(pivot, first[high])) high--;
            if (low >= high) break;
            swap(first + low++, first + high--);
        }
        size_t left = high + 1;
        sort(first + left, count - left, less);
        count = left;
    }
    insertion_sort(first, count, less);
}

static bool in_order(less_than *less)
{
    for (size_t i = 1; i < COUNT; i++)
        if (less(numbers[i], numbers[i - 1]))
            return false;
    return true;
}

int main(void)
{
    static less_than *const orders[] = { ascending, by_low_half };
    uint64_t state = 88172645463325252u, sum = 0, parity = 0, checksum = 0;
    for (size_t i = 0; i < COUNT; i++) {
        numbers[i] = next_random(&state);
        sum += numbers[i];
        parity ^= numbers[i];
    }
    bool right = true;
    for (size_t turn = 0; turn < 2; turn++) {
        sort(numbers, COUNT, orders[turn]);
        right = right && in_order(orders[turn]);
        for (size_t i = 0; i < COUNT; i += 1000)
            checksum = mix(checksum, numbers[i]);
    }
    for (size_t i = 0; i < COUNT; i++) {
        sum -= numbers[i];
        parity ^= numbers[i];
    }
    return finish("quicksort", checksum, right && sum == 0 && parity == 0);
}
