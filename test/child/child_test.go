package child

import (
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestOutlivesTheThread has the thread that asked for a child end.
func TestOutlivesTheThread(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	thread := onThread(t, func() { started <- Start(cmd, syscall.SIGKILL) })
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	for n := 0; syscall.Tgkill(syscall.Getpid(), thread, 0) == nil; n++ {
		if n == 1000 {
			t.Fatal("the thread does not end")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := io.WriteString(in, "still here"); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	b, err := io.ReadAll(out)
	if werr := cmd.Wait(); string(b) != "still here" || err != nil || werr != nil {
		t.Errorf("the child wrote %q: %v, %v", b, err, werr)
	}
}

// onThread runs f on a thread that ends with it, and gives that.
func onThread(t *testing.T, f func()) int {
	t.Helper()
	tid, end := make(chan int), make(chan struct{})
	defer close(end)
	for {
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			if syscall.Gettid() == syscall.Getpid() {
				tid <- 0
				<-end // the process's first thread does not end: this keeps the next one off it
				return
			}
			f()
			tid <- syscall.Gettid()
		}()
		if id := <-tid; id != 0 {
			return id
		}
	}
}
