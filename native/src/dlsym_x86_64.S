/* dlsym and dlvsym: a name that begins with neither "cu" nor "nvml" jumps on to the C library's own function with every
 * register and the return address as the caller left them, so RTLD_NEXT and RTLD_DEFAULT mean what they mean without us.
 * The other names go to lookup.c with the caller's address as one argument more. */

	.macro	prefix_or_jump ours, next, caller
	testq	%rsi, %rsi
	jz	9f
	cmpb	$'c', (%rsi)
	jne	1f
	cmpb	$'u', 1(%rsi)
	je	2f
1:	cmpb	$'n', (%rsi)            /* byte by byte: the name may end before a page that is not there */
	jne	9f
	cmpb	$'v', 1(%rsi)
	jne	9f
	cmpb	$'m', 2(%rsi)
	jne	9f
	cmpb	$'l', 3(%rsi)
	jne	9f
2:	movq	(%rsp), \caller
	jmp	\ours
9:	movq	\next(%rip), %rax
	testq	%rax, %rax
	jz	8f
	jmpq	*%rax
8:	pushq	%rdi                    /* the first call of all: find the C library's functions, once */
	.cfi_adjust_cfa_offset 8
	pushq	%rsi
	.cfi_adjust_cfa_offset 8
	pushq	%rdx
	.cfi_adjust_cfa_offset 8
	call	slice_lookup_find_next  /* 8 (return) + 24: the stack is aligned to 16 here */
	popq	%rdx
	.cfi_adjust_cfa_offset -8
	popq	%rsi
	.cfi_adjust_cfa_offset -8
	popq	%rdi
	.cfi_adjust_cfa_offset -8
	movq	\next(%rip), %rax
	jmpq	*%rax
	.endm

	.hidden	slice_dlsym_ours
	.hidden	slice_dlvsym_ours
	.hidden	slice_lookup_find_next
	.hidden	slice_next_dlsym
	.hidden	slice_next_dlvsym

	.text
	.globl	dlsym
	.type	dlsym, @function
	.p2align 4
dlsym:
	.cfi_startproc
	endbr64
	prefix_or_jump slice_dlsym_ours, slice_next_dlsym, %rdx
	.cfi_endproc
	.size	dlsym, . - dlsym

	.globl	dlvsym
	.type	dlvsym, @function
	.p2align 4
dlvsym:
	.cfi_startproc
	endbr64
	prefix_or_jump slice_dlvsym_ours, slice_next_dlvsym, %rcx
	.cfi_endproc
	.size	dlvsym, . - dlvsym

	.section .note.GNU-stack, "", @progbits
