/* A program that never touches CUDA: threads, a fork, memory, output. Prints "fine". */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *work(void *data)
{
        char *text = malloc(4096);

        memset(text, 'x', 4095);
        text[4095] = '\0';
        *(size_t *)data = strlen(text);
        free(text);
        return NULL;
}

int main(void)
{
        pthread_t thread[8];
        size_t length[8] = { 0 };
        int status = 1;

        for (int i = 0; i < 8; i++)
                if (pthread_create(&thread[i], NULL, work, &length[i]))
                        return 2;
        for (int i = 0; i < 8; i++)
                pthread_join(thread[i], NULL);
        pid_t child = fork();
        if (child == 0)
                _exit(length[7] == 4095 ? 0 : 3);
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
                return 4;
        puts("fine");
        return 0;
}
