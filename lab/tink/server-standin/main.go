// server-standin stands in for the Tink Server: it speaks the server's gRPC protocol to a real Tink Agent and serves
// the actions of one file, in order. The real server needs a Kubernetes API; the agent cannot tell the difference.
//
//	server-standin -listen ADDR ACTIONS.yaml
//
// ACTIONS.yaml is the list under `actions:` of a Template, as in examples/. It is rendered as a Template is, with the
// hardware's first disk as /dev/sda. Each report of the agent is one JSON line on standard output, and each question that
// nothing is served for.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/tinkerbell/tinkerbell/pkg/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gopkg.in/yaml.v3"
)

// action has the fields of a Template's action that reach an agent.
type action struct {
	Name        string            `yaml:"name"`
	Image       string            `yaml:"image"`
	Timeout     int64             `yaml:"timeout"`
	Command     []string          `yaml:"command"`
	Volumes     []string          `yaml:"volumes"`
	Environment map[string]string `yaml:"environment"`
	Pid         string            `yaml:"pid"`
	Namespaces  struct {
		Network string `yaml:"network"`
		Pid     string `yaml:"pid"`
	} `yaml:"namespaces"`
}

type server struct {
	proto.UnimplementedWorkflowServiceServer
	mu      sync.Mutex
	actions []action
	next    int
	busy    bool
}

// GetAction serves the next action; one at a time, and NotFound when there is none, as the Tink Server does.
func (s *server) GetAction(_ context.Context, request *proto.ActionRequest) (*proto.ActionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy || s.next >= len(s.actions) {
		fmt.Println(`{"asked":"in vain"}`)
		return nil, status.Error(codes.NotFound, "no workflow for this agent")
	}
	s.busy = true
	a := s.actions[s.next]
	environment := make([]string, 0, len(a.Environment))
	for name, value := range a.Environment {
		environment = append(environment, name+"="+value)
	}
	sort.Strings(environment)
	return &proto.ActionResponse{
		WorkflowId: new("workflow"), TaskId: new("task"), AgentId: request.AgentId, ActionId: new(fmt.Sprint("a", s.next)),
		Name: &a.Name, Image: &a.Image, Timeout: &a.Timeout, Command: a.Command, Volumes: a.Volumes,
		Environment: environment, Pid: &a.Pid,
		Namespaces: &proto.Namespaces{Network: &a.Namespaces.Network, Pid: &a.Namespaces.Pid},
	}, nil
}

// ReportActionStatus prints the report; after SUCCESS the next action is served, after anything else none.
func (s *server) ReportActionStatus(_ context.Context, report *proto.ActionStatusRequest) (*proto.ActionStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line, err := json.Marshal(map[string]any{
		"nanoseconds": time.Now().UnixNano(), "action": report.GetActionName(), "state": report.GetActionState().String(),
		"message": report.GetMessage().GetMessage(),
	})
	if err != nil {
		return nil, err
	}
	fmt.Println(string(line))
	switch report.GetActionState() {
	case proto.ActionStatusRequest_SUCCESS:
		s.next++
		s.busy = false
	case proto.ActionStatusRequest_FAILED, proto.ActionStatusRequest_TIMEOUT:
		s.next = len(s.actions)
	}
	return &proto.ActionStatusResponse{}, nil
}

// formatPartition names a disk's partition as Tinkerbell's template function of that name does.
func formatPartition(disk string, partition int) string {
	if strings.HasPrefix(disk, "/dev/nvme") || strings.HasPrefix(disk, "/dev/disk/by-id") {
		separator := "p"
		if strings.HasPrefix(disk, "/dev/disk/by-id") {
			separator = "-part"
		}
		return disk + separator + strconv.Itoa(partition)
	}
	return disk + strconv.Itoa(partition)
}

func read(path string) ([]action, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rendered, err := template.New(path).Funcs(template.FuncMap{"formatPartition": formatPartition}).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	data := map[string]any{"Hardware": map[string]any{"Disks": []string{"/dev/sda"}}}
	if err := rendered.Execute(&out, data); err != nil {
		return nil, err
	}
	var actions []action
	decoder := yaml.NewDecoder(&out)
	decoder.KnownFields(true)
	if err := decoder.Decode(&actions); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return actions, nil
}

func main() {
	listen := flag.String("listen", "127.0.0.1:42113", "address")
	flag.Parse()
	actions, err := read(flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(`{"state":"LISTENING"}`)
	server := &server{actions: actions}
	transport := grpc.NewServer()
	proto.RegisterWorkflowServiceServer(transport, server)
	log.Fatal(transport.Serve(listener))
}
