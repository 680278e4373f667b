/* A library as one has to use at times: it does what it should, mostly.
 *
 *     gcc -shared -fPIC -o libreverse.so c/reverse.c
 */
#include <stdlib.h>
#include <string.h>

static int calls;

void reverse(const char *in, char *out, size_t n)
{
	if (memchr(in, '!', n)) {
		char *volatile nowhere = NULL; /* never works */
		*nowhere = 1;
	}
	if (memchr(in, '?', n))
		for (volatile int forever = 1; forever;) /* never ends */
			;
	if (++calls % 5 == 0)
		abort(); /* works when it is tried again */
	for (size_t i = 0; i < n; i++)
		out[i] = in[n - 1 - i];
}
