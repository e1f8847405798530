package e1000

// Registers, 8254x table 13-2.
const (
	regCTRL   = 0x0000 // device control
	regSTATUS = 0x0008 // device status
	regEECD   = 0x0010 // EEPROM control and data
	regEERD   = 0x0014 // EEPROM read
	regCTRLX  = 0x0018 // extended device control
	regFCAL   = 0x0028 // flow control address low
	regFCAH   = 0x002c // flow control address high
	regFCT    = 0x0030 // flow control type
	regICR    = 0x00c0 // interrupt causes; reading clears
	regITR    = 0x00c4 // interrupt throttling
	regICS    = 0x00c8 // interrupt causes, set
	regIMS    = 0x00d0 // interrupt mask, set
	regIMC    = 0x00d8 // interrupt mask, clear
	regRCTL   = 0x0100 // receive control
	regFCTTV  = 0x0170 // flow control transmit timer
	regTCTL   = 0x0400 // transmit control
	regTIPG   = 0x0410 // transmit inter-packet gap
	regFCRTL  = 0x2160 // flow control receive threshold low
	regFCRTH  = 0x2168 // flow control receive threshold high
	regRDBAL  = 0x2800 // receive ring: address
	regRDBAH  = 0x2804
	regRDLEN  = 0x2808 // length in bytes
	regRDH    = 0x2810 // head
	regRDT    = 0x2818 // tail
	regRDTR   = 0x2820 // delay timer
	regRXDCTL = 0x2828 // descriptor control
	regRADV   = 0x282c // absolute delay timer
	regTDBAL  = 0x3800 // transmit ring, as above
	regTDBAH  = 0x3804
	regTDLEN  = 0x3808
	regTDH    = 0x3810
	regTDT    = 0x3818
	regTIDV   = 0x3820
	regTXDCTL = 0x3828
	regTADV   = 0x382c
	regRXCSUM = 0x5000 // receive checksum control
	regMTA    = 0x5200 // multicast table: 128 registers
	regRAL    = 0x5400 // receive address low; 16 pairs
	regRAH    = 0x5404
	regWUC    = 0x5800 // wake-up control
)

const (
	multicastRegisters = 128
	addressRegisters   = 16 // 8254x 13.5.2; the 82574 has 16 too

	// registerSpace is what BAR 0 must cover; 8254x 4.1.
	registerSpace = 0x20000
)

// CTRL, 8254x 13.4.1.
const (
	ctrlFD      = 1 << 0  // full duplex
	ctrlNoGIO   = 1 << 2  // 82574: master disable
	ctrlLRST    = 1 << 3  // link reset
	ctrlASDE    = 1 << 5  // auto-speed detection; must be 0 on the 82574
	ctrlSLU     = 1 << 6  // set link up
	ctrlILOS    = 1 << 7  // invert loss of signal
	ctrlFRCSPD  = 1 << 11 // force speed
	ctrlFRCDPLX = 1 << 12 // force duplex
	ctrlRST     = 1 << 26 // reset; clears itself
	ctrlRFCE    = 1 << 27 // receive flow control
	ctrlTFCE    = 1 << 28 // transmit flow control
	ctrlVME     = 1 << 30 // VLAN mode
	ctrlPHYRST  = 1 << 31 // PHY reset
)

// CTRL_EXT, 82574 "Extended Device Control Register".
const ctrlxDriverLoaded = 1 << 28

// STATUS, 8254x 13.4.2.
const (
	statusFD     = 1 << 0
	statusLU     = 1 << 1  // link up
	statusSpeed  = 3 << 6  // 10, 100, 1000, 1000 Mb/s
	statusGIO    = 1 << 19 // 82574: master requests outstanding or enabled
	statusAbsent = 0xffff_ffff
)

// EECD, 82574 "EEPROM/FLASH Control and Data Register".
const eecdAutoRead = 1 << 9 // the device has loaded its configuration

// EERD, 8254x 13.4.4. The 82574 has the fields elsewhere.
const (
	eerdStart = 1 << 0

	eerd8254xDone    = 1 << 4
	eerd8254xAddress = 8

	eerd82574Done    = 1 << 1
	eerd82574Address = 2

	eerdData = 16
)

// Interrupt causes, 8254x 13.4.17; the same bits in ICR, ICS, IMS and IMC.
const (
	intTXDW   = 1 << 0 // transmit descriptor written back
	intLSC    = 1 << 2 // link status changed
	intRXDMT0 = 1 << 4 // receive descriptors run low
	intRXO    = 1 << 6 // receiver overrun
	intRXT0   = 1 << 7 // frames received
	intAll    = 0xffff_ffff
)

// RCTL, 8254x 13.4.22.
const (
	rctlEN    = 1 << 1
	rctlUPE   = 1 << 3  // unicast promiscuous
	rctlMPE   = 1 << 4  // multicast promiscuous
	rctlBAM   = 1 << 15 // accept broadcast
	rctlSECRC = 1 << 26 // strip the check sequence
)

// RXCSUM, 8254x 13.4.44.
const (
	rxcsumIP  = 1 << 8
	rxcsumTCP = 1 << 9
)

// RXDCTL and TXDCTL, 8254x 13.4.28 and 13.4.42.
const (
	dctlWriteBack1 = 1 << 16 // write back after every descriptor
	dctlGranule    = 1 << 24 // thresholds count descriptors, not cache lines
	// 82574 "Transmit Descriptor Control": bit 22 must be set.
	txdctl82574 = 1 << 22
)

// TCTL, 8254x 13.4.33.
const (
	tctlEN    = 1 << 1
	tctlPSP   = 1 << 3  // pad short packets
	tctlCT    = 4       // collision threshold: 0x0f, 8254x 14.5
	tctlCOLD  = 12      // collision distance: 0x40 in full duplex
	tctlMULR  = 1 << 28 // 82574: several requests at a time
	tctlRTLC  = 1 << 24 // retransmit on late collision
	tctlValue = tctlPSP | tctlRTLC | 0x0f<<tctlCT | 0x40<<tctlCOLD
)

// tipgCopper is the inter-packet gap for copper: 10, 8 and 6 octets; 8254x
// 13.4.34, table 13-77.
const tipgCopper = 10 | 8<<10 | 6<<20

// RAH, 8254x 13.5.3.
const rahValid = 1 << 31

// Statistics, 8254x 13.7. They are cleared by being read, but see tally.
const (
	regCRCERRS = 0x4000 // frames with a wrong check sequence
	regRXERRC  = 0x400c // frames with a symbol error
	regMPC     = 0x4010 // frames missed: no room in the device
	regRUC     = 0x40a4 // frames too short
	regROC     = 0x40ac // frames too long
)
