/*
 * Loaded into User-Mode Linux (LD_PRELOAD), on processors with more registers than it knows of.
 *
 * It keeps the first 2.7 KB of a process's extended registers and writes them back with
 * PTRACE_SETREGSET, which Linux refuses when there are more (AMX: 11 KB). Here what it does not know
 * is read first and written back with the rest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PEEKTEXT 1
#define PEEKUSER 3
#define GETREGSET 0x4204
#define SETREGSET 0x4205
#define NT_X86_XSTATE 0x202

long ptrace(int request, ...)
{
	/* Not on the stack: that of a kernel is small. It has one thread of ours at a time. */
	static char registers[32768];
	va_list arguments;
	long process, word, result;
	void *address, *data;
	struct iovec all = { registers, sizeof registers };

	va_start(arguments, request);
	process = va_arg(arguments, int);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);

	if (request == SETREGSET && (long)address == NT_X86_XSTATE) {
		struct iovec *known = data;

		if (syscall(SYS_ptrace, GETREGSET, process, address, &all) == 0 &&
		    all.iov_len > known->iov_len) {
			memcpy(registers, known->iov_base, known->iov_len);
			data = &all;
		}
	}
	if (request >= PEEKTEXT && request <= PEEKUSER) {
		/* The system call stores the word; the C library's function returns it. */
		result = syscall(SYS_ptrace, request, process, address, &word);
		if (result < 0)
			return result;
		errno = 0;
		return word;
	}
	return syscall(SYS_ptrace, request, process, address, data);
}
