package kernel

import "sync/atomic"

// The runtime's network poller: one epoll that watches one eventfd, by which the
// runtime wakes a thread blocked in it. There is nothing else to poll.
const (
	fdEpoll = 100
	fdEvent = 101

	epollIn     = 1
	epollCtlAdd = 1
)

var poller struct {
	waitQueue
	ready uint32 // the eventfd is readable
	data  uint64 // what epoll_wait returns for it
}

func epollCtl(ep, op, fd, event uintptr) uintptr {
	if ep != fdEpoll || fd != fdEvent {
		return errno(eperm)
	}
	if op == epollCtlAdd {
		poller.data = ld64(event + 4) // the structure is packed
	}
	return 0
}

// epollWait waits ms milliseconds, for ever if negative.
func epollWait(events uintptr, ms int64) uintptr {
	var end int64
	if ms > 0 {
		end = after(ms * 1e6)
	}
	for {
		poller.mu.lock()
		if atomic.LoadUint32(&poller.ready) != 0 {
			poller.mu.unlock()
			st32(events, epollIn)
			st64(events+4, poller.data)
			return 1
		}
		if ms == 0 {
			poller.mu.unlock()
			return 0
		}
		if !poller.sleep(0, end) {
			return 0
		}
	}
}

func read(fd, buf, size uintptr) uintptr {
	switch fd {
	case 0:
		return 0 // end of file; input comes from SerialConsole
	case fdEvent:
		if size < 8 {
			return errno(einval)
		}
		if atomic.SwapUint32(&poller.ready, 0) == 0 {
			return errno(eagain)
		}
		st64(buf, 1)
		return 8
	}
	return errno(ebadf)
}

func write(fd, buf, size uintptr) uintptr {
	switch fd {
	case 1, 2:
		logWrite(bytesAt(buf, size))
		return size
	case fdEvent:
		poller.mu.lock()
		atomic.StoreUint32(&poller.ready, 1)
		poller.mu.unlock()
		poller.wake(0, maxThreads)
		return 8
	}
	return errno(ebadf)
}
