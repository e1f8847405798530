// Package vdisk reads and writes virtual disks in the VHDX format ([MS-VHDX]
// v20240423, revision 7.0). It has no tie to hardware: an image lies in a Backing,
// which is a file, a partition or memory.
//
// Create and Open give an Image; Image.NewQueue a Queue, which answers each Request
// exactly once as done, failed or cancelled. LiveDisk is an Image that can be
// replaced by a child of its own while requests go on. Check and Repair look for
// damage and mend it.
//
// docs/vdisk.md has the order of writes that makes an image survive a power cut,
// and what is promised. In the code: format.go is the layout on disk, image.go and
// io.go a read and a write, journal.go and flush.go the log on its way out,
// replay.go on its way back.
package vdisk
