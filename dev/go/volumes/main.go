// Command volumes gives each claim of the storage class `standard` a folder of the node's disk, as
// other local clusters do.
//
// Every user may write into such a folder: host paths know no fsGroup, and the pods of this project
// do not run as root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	className      = "standard"
	provisioner    = "tidegate.local/folder"
	provisionedBy  = "pv.kubernetes.io/provisioned-by"
	resyncInterval = 30 * time.Second
)

// provider makes a folder for each claim and removes it with the claim.
type provider struct {
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
	root    string
	node    string
	wake    chan struct{}
}

// run looks at all claims and volumes whenever one of them changes, until the context ends.
func (p *provider) run(ctx context.Context) error {
	claims, volumes := p.factory.Core().V1().PersistentVolumeClaims(), p.factory.Core().V1().PersistentVolumes()
	for _, informer := range []cache.SharedIndexInformer{claims.Informer(), volumes.Informer()} {
		if _, err := informer.AddEventHandler(p.waker()); err != nil {
			return err
		}
	}
	p.factory.Start(ctx.Done())
	p.factory.WaitForCacheSync(ctx.Done())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			if err := errors.Join(p.provideAll(ctx), p.reclaimAll(ctx)); err != nil {
				klog.ErrorS(err, "some volumes could not be provided or reclaimed; trying again")
			}
		}
	}
}

// waker makes any number of events lead to at least one look after the last of them.
func (p *provider) waker() cache.ResourceEventHandler {
	wake := func() {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		UpdateFunc: func(any, any) { wake() },
		DeleteFunc: func(any) { wake() },
	}
}

func (p *provider) provideAll(ctx context.Context) error {
	claims, err := p.factory.Core().V1().PersistentVolumeClaims().Lister().List(labels.Everything())
	for _, claim := range claims {
		if isWaiting(claim) {
			err = errors.Join(err, p.provide(ctx, claim))
		}
	}
	return err
}

// isWaiting tells whether a claim is of our class and has no volume yet.
func isWaiting(claim *v1.PersistentVolumeClaim) bool {
	class := claim.Spec.StorageClassName
	return class != nil && *class == className && claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

func (p *provider) provide(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	volume := p.build(claim)
	path := volume.Spec.HostPath.Path
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	// The umask of this process has taken bits away.
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if err == nil {
		klog.InfoS("Provided", "claim", klog.KObj(claim), "folder", path)
	}
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// build describes the folder as a volume for this claim alone, which only pods of this node can use.
func (p *provider) build(claim *v1.PersistentVolumeClaim) *v1.PersistentVolume {
	name := "folder-" + string(claim.UID)
	here := v1.NodeSelectorRequirement{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{p.node}}
	terms := []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{here}}}
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisioner}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName:              className,
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			ClaimRef: &v1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: v1.PersistentVolumeSource{
				HostPath: &v1.HostPathVolumeSource{Path: filepath.Join(p.root, name)},
			},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: terms}},
		},
	}
}

func (p *provider) reclaimAll(ctx context.Context) error {
	volumes, err := p.factory.Core().V1().PersistentVolumes().Lister().List(labels.Everything())
	for _, volume := range volumes {
		if volume.Annotations[provisionedBy] == provisioner && isReleased(volume) {
			err = errors.Join(err, p.reclaim(ctx, volume))
		}
	}
	return err
}

func isReleased(volume *v1.PersistentVolume) bool {
	return volume.Status.Phase == v1.VolumeReleased && volume.DeletionTimestamp == nil &&
		volume.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete
}

// reclaim removes the folder and then the volume, and refuses a path that is not one of its own.
func (p *provider) reclaim(ctx context.Context, volume *v1.PersistentVolume) error {
	path := filepath.Join(p.root, volume.Name)
	if volume.Spec.HostPath == nil || volume.Spec.HostPath.Path != path {
		return fmt.Errorf("volume %s is not a folder of ours", volume.Name)
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	klog.InfoS("Reclaimed", "folder", path)
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig of the cluster")
	root := flag.String("root", "", "folder to make the volumes in")
	node := flag.String("node", "", "name of the node")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := start(ctx, *kubeconfig, *root, *node); err != nil {
		klog.ErrorS(err, "Cannot provide volumes")
		os.Exit(1)
	}
}

func start(ctx context.Context, kubeconfig, root, node string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, resyncInterval)
	return (&provider{client: client, factory: factory, root: root, node: node, wake: make(chan struct{}, 1)}).run(ctx)
}
