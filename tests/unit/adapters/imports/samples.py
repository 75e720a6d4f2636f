"""Small files as other systems write them, made up for the tests."""

TOPO = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV12\tSYS\tSYS\tPIX\tSYS\t0-3,8-11\t0\t\tN/A
GPU1\tNV12\t X \tSYS\tSYS\tPXB\tSYS\t0-3,8-11\t0\t\tN/A
GPU2\tSYS\tSYS\t X \tNV12\tSYS\tNODE\t4-7,12-15\t1\t\tN/A
GPU3\tSYS\tSYS\tNV12\t X \tSYS\tPHB\t4-7,12-15\t1\t\tN/A
NIC0\tPIX\tPXB\tSYS\tSYS\t X \tSYS\t\t\t\t
NIC1\tSYS\tSYS\tNODE\tPHB\tSYS\t X \t\t\t\t

Legend:

  X    = Self

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_1
"""

LSTOPO = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
  <object type="Machine" os_index="0" cpuset="0x0000000f" nodeset="0x00000003" gp_index="1">
    <info name="HostName" value="gpu01"/>
    <object type="Package" os_index="0" cpuset="0x00000003" nodeset="0x00000001" gp_index="2">
      <object type="NUMANode" os_index="0" cpuset="0x00000003" nodeset="0x00000001" gp_index="3" local_memory="1073741824"/>
      <object type="Core" os_index="0" cpuset="0x00000003" nodeset="0x00000001" gp_index="4">
        <object type="PU" os_index="0" cpuset="0x00000001" nodeset="0x00000001" gp_index="5"/>
        <object type="PU" os_index="1" cpuset="0x00000002" nodeset="0x00000001" gp_index="6"/>
      </object>
      <object type="Bridge" bridge_type="0-1" depth="0" bridge_pci="0000:[00-0f]" gp_index="7">
        <object type="Bridge" bridge_type="1-1" depth="1" pci_busid="0000:00:01.0" pci_type="0604 [1000:c010]" gp_index="8">
          <object type="Bridge" bridge_type="1-1" depth="2" pci_busid="0000:01:00.0" pci_type="0604 [1000:c010]" gp_index="9">
            <object type="PCIDev" pci_busid="0000:02:00.0" pci_type="0302 [10de:2330] [10de:16c1] a1" gp_index="10">
              <object type="OSDev" name="cuda0" subtype="CUDA" osdev_type="5" gp_index="11">
                <info name="CUDAGlobalMemorySize" value="83035648"/>
              </object>
              <object type="OSDev" name="nvml0" subtype="NVML" osdev_type="1" gp_index="12">
                <info name="GPUModel" value="NVIDIA H100 80GB HBM3"/>
              </object>
            </object>
          </object>
          <object type="PCIDev" pci_busid="0000:03:00.0" pci_type="0207 [15b3:1021] [15b3:0041] 00" gp_index="13">
            <info name="PCIDevice" value="ConnectX-7"/>
            <object type="OSDev" name="mlx5_0" osdev_type="3" gp_index="14"/>
          </object>
        </object>
      </object>
    </object>
    <object type="Package" os_index="1" cpuset="0x0000000c" nodeset="0x00000002" gp_index="20">
      <object type="NUMANode" os_index="1" cpuset="0x0000000c" nodeset="0x00000002" gp_index="21" local_memory="1073741824"/>
      <object type="PU" os_index="2" cpuset="0x00000004" nodeset="0x00000002" gp_index="22"/>
      <object type="PU" os_index="3" cpuset="0x00000008" nodeset="0x00000002" gp_index="23"/>
      <object type="Bridge" bridge_type="0-1" depth="0" bridge_pci="0000:[80-8f]" gp_index="24">
        <object type="PCIDev" pci_busid="0000:81:00.0" pci_type="0108 [144d:a80a] [144d:a801] 00" gp_index="25">
          <object type="OSDev" name="nvme0n1" subtype="Disk" osdev_type="0" gp_index="26">
            <info name="Size" value="1000000"/>
          </object>
        </object>
        <object type="PCIDev" pci_busid="0000:82:00.0" pci_type="0300 [1a03:2000] [1a03:2000] 41" gp_index="27"/>
      </object>
    </object>
  </object>
</topology>
"""

BILLION_LAUGHS = """\
<?xml version="1.0"?>
<!DOCTYPE topology [
  <!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
]>
<topology version="2.0"><object type="Machine"><info name="HostName" value="&c;"/></object></topology>
"""

TOPOLOGY_CONF = """\
# two leaves under a spine
SwitchName=leaf[0] Nodes=n[01-02]
SwitchName=leaf1 Nodes=n03,n04 LinkSpeed=400
switchname=top Switches=leaf[0-1]
"""

GRES_CONF = """\
AutoDetect=off
NodeName=n[01-04] Name=gpu Type=h100 File=/dev/nvidia[0-3] Cores=0-31
NodeName=n[01-04] Name=gpu Type=h100 File=/dev/nvidia[4-7] Cores=32-63
NodeName=n[01-04] Name=shard Count=32
"""

SLURM_CONF = """\
ClusterName=lab
NodeName=DEFAULT Sockets=2 CoresPerSocket=32 ThreadsPerCore=2 CPUs=128 \\
    RealMemory=2000000 Gres=gpu:h100:8(S:0-1),nvme:2
NodeName=n[01-03] Feature=ib,h100
NodeName=n04 State=DRAIN Reason="bad dimm"
NodeName=n09 State=FUTURE
PartitionName=all Nodes=ALL
"""


def kubernetes_node(name: str = "a", *, labels: dict | None = None, **allocatable: str) -> dict:
    """One healthy node with eight GPUs, as the API server shows it."""
    resources = {"cpu": "191900m", "memory": "2113466308Ki", "pods": "110", "nvidia.com/gpu": "8"} | allocatable
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {},
        "status": {
            "allocatable": resources,
            "capacity": dict(resources),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
