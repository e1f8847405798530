package vmx

// A field is the encoding of a VMCS field. Its bits (SDM vol. 3, 24.11.2): access
// type 0, index 9:1, type 11:10 (control, exit information, guest, host), width
// 14:13 (16, 64, 32 bits, natural).
type field uint32

// SDM vol. 3, appendix B.
const (
	// B.1.1: 16-bit control fields
	fVPID field = 0x0000

	// B.1.2: 16-bit guest-state fields
	fGuestES  field = 0x0800 // CS SS DS FS GS LDTR TR follow, two apart
	fGuestCS  field = 0x0802
	fGuestTR  field = 0x080e
	fPMLIndex field = 0x0812

	// B.1.3: 16-bit host-state fields
	fHostES field = 0x0c00
	fHostCS field = 0x0c02
	fHostSS field = 0x0c04
	fHostDS field = 0x0c06
	fHostFS field = 0x0c08
	fHostGS field = 0x0c0a
	fHostTR field = 0x0c0c

	// B.2.1: 64-bit control fields
	fIOBitmapA       field = 0x2000
	fIOBitmapB       field = 0x2002
	fMSRBitmap       field = 0x2004
	fPMLAddress      field = 0x200e
	fTSCOffset       field = 0x2010
	fVirtualAPICPage field = 0x2012
	fEPTPointer      field = 0x201a
	fXSSExitBitmap   field = 0x202c
	fTSCMultiplier   field = 0x2032

	// B.2.2: 64-bit read-only data field
	fGuestPhysical field = 0x2400

	// B.2.3: 64-bit guest-state fields
	fLinkPointer   field = 0x2800
	fGuestDebugCtl field = 0x2802
	fGuestPAT      field = 0x2804
	fGuestEFER     field = 0x2806
	fGuestPDPTE0   field = 0x280a // 1 to 3 follow, two apart

	// B.2.4: 64-bit host-state fields
	fHostPAT  field = 0x2c00
	fHostEFER field = 0x2c02

	// B.3.1: 32-bit control fields
	fPinControls       field = 0x4000
	fPrimaryControls   field = 0x4002
	fExceptionBitmap   field = 0x4004
	fPFErrorMask       field = 0x4006
	fPFErrorMatch      field = 0x4008
	fCR3TargetCount    field = 0x400a
	fExitControls      field = 0x400c
	fExitMSRStoreCount field = 0x400e
	fExitMSRLoadCount  field = 0x4010
	fEntryControls     field = 0x4012
	fEntryMSRLoadCount field = 0x4014
	fEntryEvent        field = 0x4016
	fEntryErrorCode    field = 0x4018
	fEntryLength       field = 0x401a
	fTPRThreshold      field = 0x401c
	fSecondaryControls field = 0x401e
	fPLEGap            field = 0x4020
	fPLEWindow         field = 0x4022

	// B.3.2: 32-bit read-only data fields
	fInstructionError   field = 0x4400
	fExitReason         field = 0x4402
	fExitEvent          field = 0x4404
	fExitErrorCode      field = 0x4406
	fVectoringEvent     field = 0x4408
	fVectoringErrorCode field = 0x440a
	fExitLength         field = 0x440c
	fExitInstruction    field = 0x440e

	// B.3.3: 32-bit guest-state fields
	fGuestESLimit          field = 0x4800 // CS SS DS FS GS LDTR TR follow, two apart
	fGuestGDTRLimit        field = 0x4810
	fGuestIDTRLimit        field = 0x4812
	fGuestESAttr           field = 0x4814 // likewise
	fGuestInterruptibility field = 0x4824
	fGuestActivity         field = 0x4826
	fGuestSysenterCS       field = 0x482a
	fPreemptionTimer       field = 0x482e

	// B.3.4: 32-bit host-state field
	fHostSysenterCS field = 0x4c00

	// B.4.1: natural-width control fields
	fCR0Mask   field = 0x6000
	fCR4Mask   field = 0x6002
	fCR0Shadow field = 0x6004
	fCR4Shadow field = 0x6006

	// B.4.2: natural-width read-only data fields
	fQualification field = 0x6400
	fGuestLinear   field = 0x640a

	// B.4.3: natural-width guest-state fields
	fGuestCR0          field = 0x6800
	fGuestCR3          field = 0x6802
	fGuestCR4          field = 0x6804
	fGuestESBase       field = 0x6806 // CS SS DS FS GS LDTR TR follow, two apart
	fGuestGDTRBase     field = 0x6816
	fGuestIDTRBase     field = 0x6818
	fGuestDR7          field = 0x681a
	fGuestRSP          field = 0x681c
	fGuestRIP          field = 0x681e
	fGuestRFLAGS       field = 0x6820
	fGuestPendingDebug field = 0x6822
	fGuestSysenterESP  field = 0x6824
	fGuestSysenterEIP  field = 0x6826

	// B.4.4: natural-width host-state fields
	fHostCR0         field = 0x6c00
	fHostCR3         field = 0x6c02
	fHostCR4         field = 0x6c04
	fHostFSBase      field = 0x6c06
	fHostGSBase      field = 0x6c08
	fHostTRBase      field = 0x6c0a
	fHostGDTRBase    field = 0x6c0c
	fHostIDTRBase    field = 0x6c0e
	fHostSysenterESP field = 0x6c10
	fHostSysenterEIP field = 0x6c12
	fHostRSP         field = 0x6c14
	fHostRIP         field = 0x6c16
)

// The width of a field's value in bits; natural width is 64 on all processors
// that have long mode.
func (f field) width() uint { return [4]uint{16, 64, 32, 64}[f>>13&3] }

// readOnly fields hold exit information.
func (f field) readOnly() bool { return f>>10&3 == 1 }

// valid tells whether no reserved bit is set.
func (f field) valid() bool { return f&^0x6fff == 0 }
