/* An OpenMP program: its runtime looks functions up with dlsym while it starts its threads. Prints the sum of 1 .. 1000. */
#include <stdio.h>

int main(void)
{
        long sum = 0;

#pragma omp parallel for reduction(+ : sum) num_threads(4)
        for (int i = 1; i <= 1000; i++)
                sum += i;
        printf("%ld\n", sum);
        return 0;
}
