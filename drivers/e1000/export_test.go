package e1000

// watchForTest runs the watchdog's tick at once. The service goroutine must be
// asleep: tests using it take well under a second.
func (d *Device) watchForTest() {
	d.watch()
}
