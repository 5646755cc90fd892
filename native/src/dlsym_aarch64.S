/* dlsym and dlvsym for aarch64; dlsym_x86_64.S says what they do. The caller's address is in x30. */

	.macro	prefix_or_jump ours, next, caller
	cbz	x1, 9f
	ldrb	w9, [x1]
	cmp	w9, #'c'
	b.ne	1f
	ldrb	w9, [x1, #1]
	cmp	w9, #'u'
	b.eq	2f
	b	9f
1:	cmp	w9, #'n'
	b.ne	9f
	ldrb	w9, [x1, #1]
	cmp	w9, #'v'
	b.ne	9f
	ldrb	w9, [x1, #2]
	cmp	w9, #'m'
	b.ne	9f
	ldrb	w9, [x1, #3]
	cmp	w9, #'l'
	b.ne	9f
2:	mov	\caller, x30
	b	\ours
9:	adrp	x16, \next
	ldr	x16, [x16, #:lo12:\next]
	cbz	x16, 8f
	br	x16
8:	stp	x29, x30, [sp, #-48]!
	.cfi_def_cfa_offset 48
	.cfi_offset 29, -48
	.cfi_offset 30, -40
	stp	x0, x1, [sp, #16]
	str	x2, [sp, #32]
	mov	x29, sp
	bl	slice_lookup_find_next
	ldp	x0, x1, [sp, #16]
	ldr	x2, [sp, #32]
	ldp	x29, x30, [sp], #48
	.cfi_restore 29
	.cfi_restore 30
	.cfi_def_cfa_offset 0
	adrp	x16, \next
	ldr	x16, [x16, #:lo12:\next]
	br	x16
	.endm

	.hidden	slice_dlsym_ours
	.hidden	slice_dlvsym_ours
	.hidden	slice_lookup_find_next
	.hidden	slice_next_dlsym
	.hidden	slice_next_dlvsym

	.text
	.globl	dlsym
	.type	dlsym, %function
	.p2align 4
dlsym:
	.cfi_startproc
	hint	#34                     /* bti c */
	prefix_or_jump slice_dlsym_ours, slice_next_dlsym, x2
	.cfi_endproc
	.size	dlsym, . - dlsym

	.globl	dlvsym
	.type	dlvsym, %function
	.p2align 4
dlvsym:
	.cfi_startproc
	hint	#34
	prefix_or_jump slice_dlvsym_ours, slice_next_dlvsym, x3
	.cfi_endproc
	.size	dlvsym, . - dlvsym

	.section .note.GNU-stack, "", %progbits
