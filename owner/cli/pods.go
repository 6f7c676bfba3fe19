package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/owner/run"
)

// NewPsCommand lists running pods.
func NewPsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ps",
		Short:   "List the pods that coffer run has running",
		Example: "  coffer ps\n  coffer ps --output json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := run.Root()
			if err != nil {
				return err
			}
			run.Sweep(cmd.Context(), root) // what was killed does not run
			list, err := run.List(root)
			if err != nil {
				return err
			}
			if Output(cmd) == "json" {
				if list == nil {
					list = []run.State{}
				}
				return PrintJSON(cmd.OutOrStdout(), list)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tPOD\tTEE\tPHASE\tAGE\tCONTAINERS\tPORTS")
			for _, s := range list {
				var cs []string
				for _, c := range s.Containers {
					t := c.Name + "=" + c.State
					if c.Reason != "" {
						t += "(" + c.Reason + ")"
					}
					cs = append(cs, t)
				}
				tee := s.TEE
				if s.Simulated {
					tee += " (simulated: protects nothing)"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, s.Pod, tee, s.Phase,
					time.Since(s.Started).Round(time.Second), strings.Join(cs, ","), strings.Join(s.Publish, ","))
			}
			return w.Flush()
		},
	}
}

// NewLogsCommand prints what a container has written.
func NewLogsCommand() *cobra.Command {
	var container string
	var follow, timestamps bool
	cmd := &cobra.Command{
		Use:               "logs POD",
		Short:             "Print the logs of a running pod's container",
		Example:           "  coffer logs nginx\n  coffer logs two-containers -c debian-container --follow",
		Args:              exactArgs(1, "the pod's id or name (coffer ps lists them)"),
		ValidArgsFunction: completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, dir, err := findRun(args[0])
			if err != nil {
				return err
			}
			c, err := pickContainer(s, container)
			if err != nil {
				return err
			}
			return run.Logs(cmd.Context(), dir, c, follow, timestamps, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&container, "container", "c", "", "the container's name, if the pod has several")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the pod ends")
	cmd.Flags().BoolVar(&timestamps, "timestamps", false, "print each line's time")
	return cmd
}

// NewStopCommand ends a running pod.
func NewStopCommand() *cobra.Command {
	var now bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:               "stop POD",
		Short:             "Stop a running pod: SIGTERM, its grace period, SIGKILL",
		Example:           "  coffer stop nginx\n  coffer stop nginx-1a2b3c4d --now",
		Args:              exactArgs(1, "the pod's id or name (coffer ps lists them)"),
		ValidArgsFunction: completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, dir, err := findRun(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := run.Stop(ctx, dir, now); err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					return Exit(ExitTimeout, err)
				}
				return err
			}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), map[string]string{"stopped": s.ID})
			}
			fmt.Fprintln(cmd.OutOrStdout(), s.ID)
			return nil
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "do not wait for the grace period")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the pod to be gone")
	return cmd
}

// NewExecCommand starts a process in a container, where the policy allows it.
func NewExecCommand() *cobra.Command {
	var container string
	var stdin, tty bool
	cmd := &cobra.Command{
		Use:   "exec POD -- COMMAND [ARG ...]",
		Short: "Run a command in a running pod's container, where its policy allows it",
		Long: `Run a command in a container. The guest, not coffer, decides: the pod must have
been sealed with the command allowed (coffer run --allow-exec or coffer seal
--allow-exec), else the guest denies it with exit code 123.`,
		Example:           "  coffer exec web -- ls /etc\n  coffer exec web -c app -it -- sh",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return Exit(ExitUsage, errors.New("no command given: coffer exec POD -- COMMAND"))
			}
			s, dir, err := findRun(args[0])
			if err != nil {
				return err
			}
			c, err := pickContainer(s, container)
			if err != nil {
				return err
			}
			opts := run.ExecOptions{Container: c, Args: args[1:], TTY: tty, Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr()}
			if stdin || tty {
				opts.Stdin = os.Stdin
			}
			code, err := run.Exec(cmd.Context(), dir, opts)
			if err != nil {
				var r *run.RemoteError
				if errors.As(err, &r) && r.Code != 0 {
					return Exit(r.Code, err)
				}
				return err
			}
			if code != 0 {
				return &ExitError{Code: code, Silent: true}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&container, "container", "c", "", "the container's name, if the pod has several")
	cmd.Flags().BoolVarP(&stdin, "stdin", "i", false, "pass standard input on")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "give the process a terminal")
	return cmd
}

func findRun(name string) (run.State, string, error) {
	root, err := run.Root()
	if err != nil {
		return run.State{}, "", err
	}
	s, dir, err := run.Find(root, name)
	return s, dir, Exit(ExitInput, err)
}

// pickContainer takes the named container, or the only one that is no init
// container.
func pickContainer(s run.State, name string) (string, error) {
	var names []string
	for _, c := range s.Containers {
		if c.Name == name {
			return name, nil
		}
		if !c.Init {
			names = append(names, c.Name)
		}
	}
	if name == "" && len(names) == 1 {
		return names[0], nil
	}
	if name == "" {
		return "", Exit(ExitUsage, fmt.Errorf("the pod has several containers: choose one with -c: %s", strings.Join(names, ", ")))
	}
	return "", Exit(ExitInput, fmt.Errorf("the pod has no container %q, only %s", name, strings.Join(names, ", ")))
}

func completePods(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	root, err := run.Root()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := run.List(root)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, s := range list {
		out = append(out, s.ID)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// noArgs and exactArgs are cobra's, with our exit code and words.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Exit(ExitUsage, fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args))
	}
	return nil
}

func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return Exit(ExitUsage, fmt.Errorf("%s needs %s", cmd.CommandPath(), what))
		}
		return nil
	}
}
