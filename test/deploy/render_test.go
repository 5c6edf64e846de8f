package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// root is the repository, seen from this package.
const root = "../.."

// roots of kustomize, by what a test calls them.
var overlays = map[string]string{
	"base":       "k8s/base",
	"dev":        "k8s/overlays/dev",
	"production": "k8s/overlays/production",
}

// services are the folders of services/ that are Go modules.
func services(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "services/*/go.mod"))
	if err != nil || len(files) == 0 {
		t.Fatalf("find services: %d found, %v", len(files), err)
	}
	var names []string
	for _, file := range files {
		names = append(names, filepath.Base(filepath.Dir(file)))
	}
	return names
}

// read returns a file of the repository.
func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// render is `kustomize build` of a folder.
func render(t *testing.T, path string) string {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, path))
	if err != nil {
		t.Fatalf("render %s: %v", path, err)
	}
	text, err := resources.AsYaml()
	if err != nil {
		t.Fatalf("print %s: %v", path, err)
	}
	return string(text)
}

// decode reads a stream of YAML documents as strictly as the API server does: a field that it does not know, or
// knows twice, is an error.
func decode(text string) ([]runtime.Object, error) {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	var objects []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
}

// mustDecode is decode of what a test before this one, or this one's author, knows to be right.
func mustDecode(t *testing.T, text string) []runtime.Object {
	t.Helper()
	objects, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestEveryManifestDecodesStrictly(t *testing.T) {
	for name, path := range overlays {
		t.Run(name, func(t *testing.T) {
			objects, err := decode(render(t, path))
			if err != nil {
				t.Fatal(err)
			}
			if len(objects) == 0 {
				t.Fatal("nothing was rendered")
			}
		})
	}
}

func TestAMisspeltFieldIsRefused(t *testing.T) {
	text := strings.Replace(render(t, overlays["base"]), "replicas:", "replicaz:", 1)
	if _, err := decode(text); err == nil || !strings.Contains(err.Error(), `unknown field "spec.replicaz"`) {
		t.Fatalf("decode of a Deployment with replicaz: %v", err)
	}
}

// workload is what runs pods: a Deployment, a StatefulSet or a Job.
type workload struct {
	kind, name, namespace string
	selector              map[string]string // nil for a Job
	serviceName           string            // of a StatefulSet
	template              corev1.PodTemplateSpec
}

func (w workload) String() string { return w.kind + " " + w.name }

// containers are the workload's containers in the order in which they start.
func (w workload) containers() []corev1.Container {
	return append(append([]corev1.Container{}, w.template.Spec.InitContainers...), w.template.Spec.Containers...)
}

func workloads(objects []runtime.Object) []workload {
	var found []workload
	for _, object := range objects {
		switch o := object.(type) {
		case *appsv1.Deployment:
			found = append(found, workload{"Deployment", o.Name, o.Namespace, o.Spec.Selector.MatchLabels, "", o.Spec.Template})
		case *appsv1.StatefulSet:
			found = append(found, workload{"StatefulSet", o.Name, o.Namespace, o.Spec.Selector.MatchLabels, o.Spec.ServiceName, o.Spec.Template})
		case *batchv1.Job:
			found = append(found, workload{"Job", o.Name, o.Namespace, nil, "", o.Spec.Template})
		}
	}
	return found
}

// deployments are the workloads that keep running, by name.
func deployments(objects []runtime.Object) map[string]workload {
	found := map[string]workload{}
	for _, w := range workloads(objects) {
		if w.kind == "Deployment" {
			found[w.name] = w
		}
	}
	return found
}
