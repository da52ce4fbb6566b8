package service

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// refuseHandshakes makes the kernel drop connection requests that arrive at a listening socket, as if they had
// been lost on the network. The client repeats its request after a second; by then it is refused, or served by
// the next process on this port. Only packets that open a connection are dropped. A filter that dropped
// everything would also swallow the last packet of handshakes in progress: those clients believe that they are
// connected, and would be reset.
func refuseHandshakes(l *net.TCPListener) error {
	const (
		flagsOffset = 13 // of the flags in the TCP header, at which the filter's data begins
		synAck      = 0x12
		syn         = 0x02
	)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flagsOffset},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: synAck},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var attach error
	err = raw.Control(func(fd uintptr) {
		attach = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(err, os.NewSyscallError("setsockopt", attach))
}
