/* Go draws its random numbers from ProcessPrng, which Wine has only from 8.13
 * on; Debian's Wine is older. advapi32 has had the same thing under another
 * name for ever, with a 32-bit length, hence the pieces. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID p, ULONG n); /* RtlGenRandom */

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE p, SIZE_T n)
{
	const SIZE_T piece = 1u << 30;
	for (; n > piece; p += piece, n -= piece)
		if (!SystemFunction036(p, (ULONG)piece))
			return FALSE;
	return SystemFunction036(p, (ULONG)n);
}
