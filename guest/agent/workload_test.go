package agent_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/test/agentns"
)

func TestMain(m *testing.M) {
	agentns.Main(workload)
	os.Exit(m.Run())
}

// workload is what containers of these tests run: a verb, then its arguments.
func workload(args []string) int {
	if len(args) == 0 {
		return 2
	}
	switch args[0] {
	case "echo":
		fmt.Println(strings.Join(args[1:], " "))
	case "stderr":
		fmt.Fprintln(os.Stderr, strings.Join(args[1:], " "))
	case "exit":
		n, _ := strconv.Atoi(args[1])
		return n
	case "env":
		env := os.Environ()
		slices.Sort(env)
		fmt.Println(strings.Join(env, "\n"))
	case "sleep":
		fmt.Println("sleeping")
		time.Sleep(time.Hour)
	case "term":
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, unix.SIGTERM)
		fmt.Println("ready")
		<-ch
		fmt.Println("bye")
		return 7
	case "stubborn":
		signal.Ignore(unix.SIGTERM)
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, unix.SIGUSR1)
		fmt.Println("ready")
		<-ch
		return 5
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
		fmt.Println("eof")
	case "status": // lines of /proc/self/status with these names
		f, err := os.Open("/proc/self/status")
		if err != nil {
			return fail(err)
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, _, _ := strings.Cut(s.Text(), ":"); slices.Contains(args[1:], name) {
				fmt.Println(s.Text())
			}
		}
	case "read":
		for _, p := range args[1:] {
			b, err := os.ReadFile(p)
			if err != nil {
				fmt.Println(p, "error:", err)
				continue
			}
			fmt.Print(string(b))
		}
	case "ls":
		for _, p := range args[1:] {
			names, _ := filepath.Glob(p + "/*")
			fmt.Println(strings.Join(names, " "))
		}
	case "write":
		for _, p := range args[1:] {
			fmt.Println(p, os.WriteFile(p, []byte("x"), 0o644))
		}
	case "link":
		fmt.Println(os.Symlink(args[1], args[2]))
	case "mknod": // reading a disk or kernel memory through a node of its own
		err := unix.Mknod("/tmp/node", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1)))
		_, oerr := os.Open("/tmp/node")
		fmt.Println("mknod:", err, "open:", oerr)
	case "mount":
		fmt.Println(unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))
	case "tty":
		// Before the first line, for which the test waits.
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, unix.SIGWINCH)
		_, err := unix.IoctlGetTermios(0, unix.TCGETS)
		ws, werr := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ)
		fmt.Println("tty:", err == nil, werr == nil)
		if werr == nil {
			fmt.Println("size:", ws.Row, ws.Col)
		}
		<-ch
		if ws, err = unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
			fmt.Println("size:", ws.Row, ws.Col)
		}
	case "orphan": // leaves a child that holds stdout
		p, err := os.StartProcess("/bin/workload", []string{"workload", "sleep"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, nil}})
		if err != nil {
			return fail(err)
		}
		_ = p.Release()
	case "pids": // what a container sees of processes, those without a command line by their names
		names, _ := filepath.Glob("/proc/[0-9]*")
		slices.Sort(names)
		for _, p := range names {
			line, _ := os.ReadFile(p + "/cmdline")
			status, _ := os.ReadFile(p + "/status")
			_, root := os.Readlink(p + "/root")
			text := string(status)
			fmt.Printf("%s %s %s root=%v\n", filepath.Base(p), strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " "), strings.Fields(text[strings.Index(text, "State:"):])[1], root == nil)
		}
	case "leave": // leaves a child that ends later than this
		p, err := os.StartProcess("/bin/workload", []string{"workload", "exit-later"}, &os.ProcAttr{})
		if err != nil {
			return fail(err)
		}
		_ = p.Release()
	case "exit-later":
		time.Sleep(100 * time.Millisecond)
	case "kill":
		names, _ := filepath.Glob("/proc/[0-9]*")
		for _, p := range names {
			if line, _ := os.ReadFile(p + "/cmdline"); string(line) == strings.Join(args[1:], "\x00")+"\x00" {
				pid, _ := strconv.Atoi(filepath.Base(p))
				fmt.Println(unix.Kill(pid, unix.SIGKILL))
			}
		}
	case "id":
		groups, _ := os.Getgroups()
		slices.Sort(groups)
		fmt.Println(os.Getuid(), os.Getgid(), groups)
	case "flood":
		n, _ := strconv.Atoi(args[1])
		_, _ = os.Stdout.Write([]byte(strings.Repeat("y", n)))
	default:
		return 2
	}
	return 0
}

func fail(err error) int {
	fmt.Println(err)
	return 1
}
