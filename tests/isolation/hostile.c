/* A library whose constructor tries what a hijacked worker would, and writes what it could do to standard error. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char told[512];

static void tell(const char *what, int done) {
  strcat(strcat(strcat(told, what), done ? "=done" : "=refused"), ";");
}

__attribute__((constructor)) static void attack(void) {
  pid_t server = getppid();
  const char *environment = getenv("DULY_TEST_OTHER_FILE");
  tell("socket", socket(AF_INET, SOCK_STREAM, 0) >= 0);
  tell("passwd", open("/etc/passwd", O_RDONLY) >= 0);
  tell("other-model", environment == NULL || open(environment, O_RDONLY) >= 0);
  tell("write", open("/tmp/duly-hostile", O_CREAT | O_WRONLY, 0600) >= 0);
  tell("ptrace", ptrace(PTRACE_SEIZE, server, 0, 0) == 0);
  tell("kill", kill(server, SIGCONT) == 0);
  tell("shell", system("true") == 0);
  tell("fork", fork() > 0);
  dprintf(2, "hostile %s end\n", told); /* one line, as the log bounds how many it takes a second */
}
