package conformance

// The guests. A hosted test checks that every line decodes to what stands beside it.

// Exits of one instruction each, the same bytes in every mode.
var gCPUID = guest{64, `
0fa2                 cpuid
f4                   hlt
`}

var gMSR = guest{64, `
0f32                 rdmsr
0f30                 wrmsr
f4                   hlt
`}

var gWriteReadMSR = guest{64, `
0f30                 wrmsr
0f32                 rdmsr
f4                   hlt
`}

var gWriteMSR = guest{64, `
0f30                 wrmsr
f4                   hlt
`}

var gPorts = guest{64, `
e680                 out 0x80, al
e481                 in al, 0x81
ee                   out dx, al
ec                   in al, dx
ef                   out dx, eax
ed                   in eax, dx
f4                   hlt
`}

var gWBINVD = guest{64, `
0f09                 wbinvd
0f08                 invd
f4                   hlt
`}

var gVMCALL = guest{64, `
0f01c1               raw vmcall
f4                   hlt
`}

var gVMMCALL = guest{64, `
0f01d9               raw vmmcall
f4                   hlt
`}

var gXSETBV = guest{64, `
0f01d1               xsetbv
f4                   hlt
`}

var gRDPMC = guest{64, `
0f33                 rdpmc
f4                   hlt
`}

var gMONITOR = guest{64, `
0f01c8               monitor
f4                   hlt
`}

var gMWAIT = guest{64, `
0f01c9               mwait
f4                   hlt
`}

var gUD2 = guest{64, `
0f0b                 ud2
`}

var gINT3 = guest{64, `
cc                   int3
f4                   hlt
`}

var gINT80 = guest{64, `
cd80                 int 0x80
f4                   hlt
`}

var gHLT = guest{64, `
f4                   hlt
f4                   hlt
`}

var gNops = guest{64, `
90                   nop
90                   nop
90                   nop
90                   nop
f4                   hlt
`}

var gSpin = guest{64, `
ebfe                 jmp .-0x2
`}

var gPauseSpin = guest{64, `
f390                 pause
ebfc                 jmp .-0x4
`}

var gStrings = guest{32, `
f36e                 rep outsb
f36c                 rep insb
6f                   outsd
666d                 data16 insw
f4                   hlt
`}

var gSTI = guest{64, `
fb                   sti
90                   nop
90                   nop
90                   nop
f4                   hlt
`}

var gSTIHLT = guest{64, `
fb                   sti
f4                   hlt
f4                   hlt
`}

// For interrupt and NMI handlers.
var gIRET16 = guest{16, `
45                   inc bp
cf                   iret
`}

var gIRET32 = guest{32, `
45                   inc ebp
cf                   iretd
`}

var gIRET64 = guest{64, `
48ffc5               inc rbp
48cf                 iretq
`}

var gMOVSS = guest{64, `
8ed1                 mov ss, cx
90                   nop
90                   nop
f4                   hlt
`}

var gLoad = guest{64, `
8a03                 mov al, byte ptr [rbx]
f4                   hlt
`}

var gStore = guest{64, `
8803                 mov byte ptr [rbx], al
f4                   hlt
`}

var gStore2 = guest{64, `
8803                 mov byte ptr [rbx], al
8803                 mov byte ptr [rbx], al
f4                   hlt
`}

var gLoads = guest{64, `
488b03               mov rax, qword ptr [rbx]
f4                   hlt
488b03               mov rax, qword ptr [rbx]
f4                   hlt
488b03               mov rax, qword ptr [rbx]
f4                   hlt
`}

var gCall = guest{64, `
ffd3                 call rbx
f4                   hlt
`}

var gJumpIndirect = guest{64, `
ffe3                 jmp rbx
`}

var gTouchAll = guest{64, `
8803                 mov byte ptr [rbx], al
4881c300100000       add rbx, 0x1000
48ffc9               dec rcx
75f2                 jnz .-0xe
f4                   hlt
`}

var gCR0 = guest{64, `
0f20c0               mov rax, cr0
3500000100           xor eax, 0x10000
0f22c0               mov cr0, rax
0f20c2               mov rdx, cr0
f4                   hlt
`}

var gCR0ET = guest{64, `
0f20c0               mov rax, cr0
83e0ef               and eax, -0x11
0f22c0               mov cr0, rax
0f20c2               mov rdx, cr0
f4                   hlt
`}

var gCR3 = guest{64, `
0f20d8               mov rax, cr3
0f22d8               mov cr3, rax
f4                   hlt
`}

var gCR4 = guest{64, `
0f22e3               mov cr4, rbx
0f20e0               mov rax, cr4
410f22e1             mov cr4, r9
0f20e2               mov rdx, cr4
f4                   hlt
`}

var gCR8 = guest{64, `
440f22c0             mov cr8, rax
440f20c2             mov rdx, cr8
f4                   hlt
`}

var gLowerCR8 = guest{64, `
440f22c0             mov cr8, rax
90                   nop
90                   nop
f4                   hlt
`}

var gDR = guest{64, `
0f23c3               mov dr0, rbx
0f23c9               mov dr1, rcx
0f23d2               mov dr2, rdx
0f23de               mov dr3, rsi
0f23ff               mov dr7, rdi
410f21c0             mov r8, dr0
410f21d9             mov r9, dr3
410f21fa             mov r10, dr7
f4                   hlt
90                   nop
90                   nop
f4                   hlt
`}

var gReadDR = guest{64, `
0f21c0               mov rax, dr0
0f21f3               mov rbx, dr6
f4                   hlt
`}

var gRDTSC = guest{64, `
0f31                 rdtsc
f4                   hlt
`}

var gSSE = guest{64, `
66480f6ec0           movq xmm0, rax
66480f6ecb           movq xmm1, rbx
f4                   hlt
66480f7ec1           movq rcx, xmm0
66480f7eca           movq rdx, xmm1
f4                   hlt
`}

var gMXCSR = guest{64, `
0fae13               ldmxcsr dword ptr [rbx]
dbe3                 fninit
d929                 fldcw word ptr [rcx]
f4                   hlt
0fae1b               stmxcsr dword ptr [rbx]
d939                 fnstcw word ptr [rcx]
f4                   hlt
`}

var gAVX = guest{64, `
c4e27d1803           raw vbroadcastss ymm0, [rbx]
f4                   hlt
c5fc1103             raw vmovups [rbx], ymm0
f4                   hlt
`}

var gSwapGS = guest{64, `
0f01f8               swapgs
65488b042500000000   mov rax, qword ptr gs:[]
f4                   hlt
`}

var gSyscall = guest{64, `
0f05                 syscall
`}

var gSegments = guest{64, `
8ed8                 mov ds, ax
8ee0                 mov fs, ax
f4                   hlt
668cd8               mov ax, ds
f4                   hlt
`}

var gSelfModify = guest{64, `
880501000000         mov byte ptr [rip+0x1], al
b300                 mov bl, 0x0
fec0                 inc al
3c10                 cmp al, 0x10
75f2                 jnz .-0xe
f4                   hlt
`}

var gPushF = guest{64, `
9c                   pushfq
58                   pop rax
f4                   hlt
`}

var gDivide = guest{64, `
f7f1                 div ecx
f4                   hlt
`}

var gPAE = guest{32, `
8b03                 mov eax, dword ptr [ebx]
f4                   hlt
`}

// Hardware task switches: 38h is selGate.
var gTaskJump = guest{32, `
ea000000003800       jmp far 0x0, 0x38
f4                   hlt
`}

var gTaskCall = guest{32, `
9a000000003800       call far 0x0, 0x38
f4                   hlt
`}

var gTaskReturn = guest{32, `
f4                   hlt
cf                   iretd
`}

var gTaskBadSegment = guest{32, `
8ed8                 mov ds, ax
f4                   hlt
`}

var gTaskGate = guest{32, `
cd40                 int 0x40
f4                   hlt
`}

var gEnterProtected = guest{16, `
660f01160009         lgdt ptr [0x900]
0f20c0               mov eax, cr0
0c01                 or al, 0x1
0f22c0               mov cr0, eax
ea00801800           jmp far 0x8000, 0x18
`}

var gEnterLong = guest{32, `
b820000000           mov eax, 0x20
0f22e0               mov cr4, eax
b800300000           mov eax, 0x3000
0f22d8               mov cr3, eax
b9800000c0           mov ecx, 0xc0000080
0f32                 rdmsr
0d00010000           or eax, 0x100
0f30                 wrmsr
0f20c0               mov eax, cr0
0d00000080           or eax, 0x80000000
0f22c0               mov cr0, eax
ea009000000800       jmp far 0x9000, 0x8
`}

var gLongAtLast = guest{64, `
48b8f0debc9a78563412 mov rax, 0x123456789abcdef0
f4                   hlt
`}

var gVMRUN = guest{64, `
0f01d8               raw vmrun
`}

var gVMLOAD = guest{64, `
0f01da               raw vmload
`}

var gVMSAVE = guest{64, `
0f01db               raw vmsave
`}

var gSTGI = guest{64, `
0f01dc               raw stgi
`}

var gCLGI = guest{64, `
0f01dd               raw clgi
`}

var gINVLPGA = guest{64, `
0f01df               raw invlpga
`}

var gVMXON = guest{64, `
f30fc733             raw vmxon [rbx]
`}

var gVMPTRLD = guest{64, `
0fc733               raw vmptrld [rbx]
`}

var gINVEPT = guest{64, `
660f388003           raw invept rax, [rbx]
`}

var gGETSEC = guest{64, `
0f37                 raw getsec
`}

var gDropIRET64 = guest{64, `
48ffc5               inc rbp
4883c408             add rsp, 0x8
48cf                 iretq
`}

var gIRETHalt = guest{64, `
48cf                 iretq
f4                   hlt
f4                   hlt
`}

var gStoreSpin = guest{64, `
ff03                 inc dword ptr [rbx]
ebfc                 jmp .-0x4
`}

// Loops of one exit each, for Bench.
var gLoopCPUID = guest{64, `
0fa2                 cpuid
ebfc                 jmp .-0x4
`}

var gLoopRDMSR = guest{64, `
0f32                 rdmsr
ebfc                 jmp .-0x4
`}

var gLoopWRMSR = guest{64, `
0f30                 wrmsr
ebfc                 jmp .-0x4
`}

var gLoopIN = guest{64, `
ec                   in al, dx
ebfd                 jmp .-0x3
`}

var gLoopOUT = guest{64, `
ee                   out dx, al
ebfd                 jmp .-0x3
`}

var gLoopVMCALL = guest{64, `
0f01c1               raw vmcall
ebfb                 jmp .-0x5
`}

var gLoopVMMCALL = guest{64, `
0f01d9               raw vmmcall
ebfb                 jmp .-0x5
`}

var gLoopLoad = guest{64, `
8a03                 mov al, byte ptr [rbx]
ebfc                 jmp .-0x4
`}

var gLoopHLT = guest{64, `
fb                   sti
f4                   hlt
ebfc                 jmp .-0x4
`}

var gLoopTouch = guest{64, `
8803                 mov byte ptr [rbx], al
4801cb               add rbx, rcx
ebf9                 jmp .-0x7
`}

var gLoopSTI = guest{64, `
fa                   cli
90                   nop
fb                   sti
90                   nop
ebfa                 jmp .-0x6
`}

// Counts in two pages, together with other processors.
// gPatch puts an INT3 at RSI and takes it away, and waits until gPatched, counting at
// RBX, has passed twice, before it does so again; until there is something at RDI. It
// says there that it is over.
var gPatch = guest{64, `
c606cc               mov byte ptr [rsi], 0xcc
c60690               mov byte ptr [rsi], 0x90
48ffc1               inc rcx
488b03               mov rax, qword ptr [rbx]
4883c002             add rax, 0x2
483903               cmp qword ptr [rbx], rax
72fb                 jb .-0x5
803f00               cmp byte ptr [rdi], 0x0
74e6                 jz .-0x1a
c6470101             mov byte ptr [rdi+0x1], 0x1
f4                   hlt
`}

var gPatched = guest{64, `
90                   nop
48ff03               inc qword ptr [rbx]
807f0100             cmp byte ptr [rdi+0x1], 0x0
74f6                 jz .-0xa
f4                   hlt
`}

// gRetry64 returns to the INT3 that it handles.
var gRetry64 = guest{64, `
48ff0c24             dec qword ptr [rsp]
48ffc5               inc rbp
48cf                 iretq
`}

var gLockInc = guest{64, `
f0ff03               lock inc dword ptr [rbx]
f0ff8300100000       lock inc dword ptr [rbx+0x1000]
4881c300200000       add rbx, 0x2000
4821d3               and rbx, rdx
4809f3               or rbx, rsi
48ffc9               dec rcx
75e4                 jnz .-0x1c
f4                   hlt
`}
