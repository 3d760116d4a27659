// Command runc stands before the real runc of a lab node whose host grants no CAP_SYS_RESOURCE.
//
// Without that capability nobody can lower an OOM score, raise a limit, or give the capability to a container, and runc
// fails where Docker asks for one of them. This takes these wishes out of what Docker wrote down for runc (a container's
// config.json, a process's file) and then becomes the real program, runc.real beside it. It is part of the lab's Docker
// archive alone and never of a pot's own programs.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const withheld = "CAP_SYS_RESOURCE"

func main() {
	self, err := os.Executable()
	if err == nil {
		err = soften(os.Args[1:])
	}
	if err == nil {
		real := filepath.Join(filepath.Dir(self), "runc.real")
		err = syscall.Exec(real, os.Args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "runc of the kpot lab:", err)
	os.Exit(1)
}

// soften edits the file that the arguments name, if they start something.
func soften(args []string) error {
	bundle, process, starts := ".", "", ""
	for i, arg := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		switch {
		case !strings.HasPrefix(arg, "-") && starts == "" && (arg == "create" || arg == "run" || arg == "exec"):
			starts = arg
		case strings.HasPrefix(arg, "-") && (name == "bundle" || name == "b"):
			bundle = value
		case strings.HasPrefix(arg, "-") && (name == "process" || name == "p"):
			process = value
		}
	}
	switch {
	case starts == "create" || starts == "run":
		return edit(filepath.Join(bundle, "config.json"), func(config map[string]any) any { return config["process"] })
	case starts == "exec" && process != "":
		return edit(process, func(file map[string]any) any { return file })
	}
	return nil
}

func edit(path string, processIn func(map[string]any) any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var file map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&file); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	process, ok := processIn(file).(map[string]any)
	if !ok {
		return nil
	}
	delete(process, "rlimits")
	if score, ok := process["oomScoreAdj"].(json.Number); ok && strings.HasPrefix(score.String(), "-") {
		process["oomScoreAdj"] = 0
	}
	if sets, ok := process["capabilities"].(map[string]any); ok {
		for name, set := range sets {
			if listed, ok := set.([]any); ok {
				sets[name] = without(listed)
			}
		}
	}
	if text, err = json.Marshal(file); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

func without(capabilities []any) []any {
	kept := []any{}
	for _, capability := range capabilities {
		if capability != withheld {
			kept = append(kept, capability)
		}
	}
	return kept
}
